"""Several processes of one program: how they begin and how they talk; knows neither program."""
