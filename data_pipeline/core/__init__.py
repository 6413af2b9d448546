"""The ground floor: files, pictures, videos, and finding them."""
