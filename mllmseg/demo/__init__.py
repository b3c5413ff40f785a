"""The web demo: talk to a picture, see what was meant, where it is and why; for programs and other agents too."""
