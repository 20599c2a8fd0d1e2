"""What the tests share. Imported as `support`, since pytest puts the directory of conftest.py on sys.path."""
