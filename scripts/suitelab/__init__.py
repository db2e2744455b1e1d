"""The test suite in three sizes: scripts/quick, scripts/test and scripts/nightly.

cli           their options and help
suites        which checks and tests each of them has
run           one run of a suite
command_line  what a script ends with
notes         what the tests' processes tell the run
identity      the word that tells runs apart
leftovers     mounts, processes, folders and cgroups of this run, which are reported and removed
reruns        runs what failed once more
machine       how busy the machine is
steps         runs commands, and ends them when the run is interrupted
"""
