"""The main job on real input: services that others wrote, behind edgecache, compared with themselves."""
