"""What stands outside the product: embedded servers, the simulator, gunicorn configuration, account lists."""
