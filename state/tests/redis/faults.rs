//! What a failing Redis must not lose.
