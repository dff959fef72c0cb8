"""Quality control: may a result be trusted?"""
