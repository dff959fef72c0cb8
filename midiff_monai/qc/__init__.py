"""Quality control: automatic flags, pictures, and the page of a study."""
