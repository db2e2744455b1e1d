"""Tables, charts, pages and screens. They know the figures that they show, and no mount."""
