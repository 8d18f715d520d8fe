"""The development cluster's library: one small module per concern, standard library only. Start reading at cli.py."""
