"""The embedded world: sprites, scenes, captions, a tiny SDXL family, and the reader that scores pictures."""
