"""Tests of what is done to VMs from outside: counting and evicting their memory."""
