"""The explorer's state in page.py, its drawing in page.js and page.css."""
