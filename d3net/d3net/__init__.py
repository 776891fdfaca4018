"""D3Net: multidilated dense networks for music (arXiv 2010.01733) and for street scenes (arXiv 2011.11844)."""
