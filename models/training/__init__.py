"""How a checkpoint is made: trained, calibrated, measured and published. Imports everything else in `models` but `inference`'s users."""
