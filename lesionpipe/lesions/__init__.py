"""DL_info.csv -> checked rows, one per usable lesion."""
