"""What every part of the package may use: files, tables, sentences, the machine."""
