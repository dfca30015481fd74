//! What sshd runs: `AuthorizedKeysCommand /…/eic_run_authorized_keys %u %f`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ec2_instance_connect::helper::main(std::env::args_os().skip(1))
}
