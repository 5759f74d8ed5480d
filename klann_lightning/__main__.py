from klann_lightning.cli import run

if __name__ == "__main__":  # not where a search's workers import it
    run()
