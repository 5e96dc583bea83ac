"""The work of each stage; `python -m tasks.<stage>` runs one."""
