//! Stream processors: one consumer loop, a module for each consumer group.
