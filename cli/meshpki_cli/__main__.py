"""`python -m meshpki_cli` is `meshpki`."""

from meshpki_cli.entry import main

if __name__ == "__main__":
    main()
