//! What an administrator runs: a shim over [`ec2_instance_connect::admin`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ec2_instance_connect::admin::main()
}
