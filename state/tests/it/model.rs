//! Random calls compared with a plain model.
