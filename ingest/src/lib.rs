//! The write side: validates, makes a command, publishes it, awaits its outcome.
