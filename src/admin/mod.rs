//! `ec2-instance-connect`, the administrator's tool.
//!
//! One module per subcommand, each with a clap type for its arguments and a function that returns a [`Page`]: nothing
//! but [`output`] prints. A new subcommand is a module, a variant of [`Subcommand`] and an arm in [`dispatch`]; man
//! page and completions follow by themselves.

pub mod access;
pub mod capture;
pub mod compare;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod generate;
pub mod history;
pub mod one_time;
pub mod output;
pub mod paint;
mod run_as;
pub mod selftest;
pub mod selinux;
pub mod setup;
pub mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::link::keeper;
use crate::sshd::system::{judge, user};
use output::Page;

/// Exit status of a call that was refused or failed. 0 is done or nothing to do; clap uses 2 for wrong usage.
pub const EXIT_REFUSED: u8 = 1;

/// Administer the on-instance half of Amazon EC2 Instance Connect
#[derive(Debug, Parser)]
#[command(
    name = "ec2-instance-connect",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    Access(access::AccessCommand),
    Config(config::ConfigCommand),
    Doctor(doctor::Doctor),
    Setup(setup::Setup),
    Generate(generate::Generate),
    History(history::History),
    Capture(capture::Capture),
    Verify(verify::Verify),
    Explain(explain::Explain),
    Compare(compare::Compare),
    Selftest(selftest::Selftest),
    /// Ask sshd about the configuration described on standard input, in a private mount namespace
    #[command(name = judge::SUBCOMMAND, hide = true)]
    Judge,
}

/// Reads the command line, does what it says, and prints the page.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = || std::env::args_os().skip(1);
    if let Some(ended) = keeper::asked(arguments()) {
        return ended;
    }
    if let Some(error) = user::asked(arguments()) {
        return output::show(&Page {
            err: format!("ec2-instance-connect: cannot become another user: {error}\n"),
            exit: EXIT_REFUSED,
            ..Page::default()
        });
    }
    match Cli::try_parse() {
        Ok(cli) => output::show(&dispatch(cli.command)),
        Err(error) => output::show_usage(&error),
    }
}

fn dispatch(command: Subcommand) -> Page {
    match command {
        Subcommand::Access(access) => access.run(),
        Subcommand::Config(config) => config.run(),
        Subcommand::Doctor(doctor) => doctor.run(),
        Subcommand::Setup(setup) => setup.run(),
        Subcommand::Generate(generate) => generate.run(),
        Subcommand::History(history) => history.run(),
        Subcommand::Capture(capture) => capture.run(),
        Subcommand::Verify(verify) => verify.run(),
        Subcommand::Explain(explain) => explain.run(),
        Subcommand::Compare(compare) => compare.run(),
        Subcommand::Selftest(selftest) => selftest.run(),
        Subcommand::Judge => {
            let answer = std::io::read_to_string(std::io::stdin())
                .and_then(|request| judge::serve(request.as_bytes()));
            match answer {
                Ok(answer) => Page {
                    out: answer,
                    ..Page::default()
                },
                Err(error) => Page {
                    err: format!("{error}\n"),
                    exit: EXIT_REFUSED,
                    ..Page::default()
                },
            }
        }
    }
}

/// A page of one JSON document.
fn json_page(document: &impl serde::Serialize, exit: u8) -> Page {
    match output::json_line(document) {
        Ok(out) => Page {
            out,
            exit,
            ..Page::default()
        },
        Err(error) => Page {
            err: format!("{error}\n"),
            exit: EXIT_REFUSED,
            ..Page::default()
        },
    }
}
