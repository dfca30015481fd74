//! The administrator's tools, each a subcommand of `ec2-instance-connect`.

pub mod history;
