"""The one judge: when a mapping is valid, and how long the program then takes."""
