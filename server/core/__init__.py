"""What the server decides, apart from how it hears and speaks: pure, no I/O, no clock."""
