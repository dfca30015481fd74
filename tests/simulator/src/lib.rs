//! A make-believe EC2.
