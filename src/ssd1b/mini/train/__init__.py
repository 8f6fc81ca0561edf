"""How the mini world's frozen parts are made: VAE, text encoders, and the reader that judges pictures."""
