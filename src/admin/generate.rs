//! `ec2-instance-connect generate`: man pages and completions, from the definition that parses the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::output::Page;
use super::{Cli, EXIT_REFUSED};

/// The manual's section: commands for administrators.
const SECTION: &str = "8";

/// Write man pages or shell completions into a directory (for packaging)
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Generate {
    /// What to write
    what: What,
    /// Where to write it
    directory: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// ec2-instance-connect.8 and one page per subcommand
    Man,
    /// ec2-instance-connect (bash), _ec2-instance-connect (zsh), ec2-instance-connect.fish
    Completions,
}

impl Generate {
    /// Writes the files.
    #[must_use]
    pub fn run(&self) -> Page {
        let done = match self.what {
            What::Man => man(&self.directory),
            What::Completions => completions(&self.directory),
        };
        match done {
            Ok(()) => Page::default(),
            Err(error) => {
                let err = format!("ec2-instance-connect: {}: {error}\n", self.directory.display());
                Page {
                    err,
                    exit: EXIT_REFUSED,
                    ..Page::default()
                }
            }
        }
    }
}

/// Every page holds all of its own subcommands' options; pages of the same build are the same bytes.
fn man(directory: &Path) -> io::Result<()> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let mut todo = vec![(String::from("ec2-instance-connect"), cli)];
    while let Some((name, command)) = todo.pop() {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            todo.push((format!("{name}-{}", sub.get_name()), sub.clone()));
        }
        // clap wants names that live as long as the program; a handful of short ones may.
        let leaked: &'static str = name.clone().leak();
        let page = clap_mangen::Man::new(command.name(leaked))
            .section(SECTION)
            .date("")
            .manual("System Administration");
        let mut text = Vec::new();
        page.render(&mut text)?;
        fs::write(directory.join(format!("{name}.{SECTION}")), text)?;
    }
    Ok(())
}

fn completions(directory: &Path) -> io::Result<()> {
    for (shell, file) in [
        (Shell::Bash, "ec2-instance-connect"),
        (Shell::Zsh, "_ec2-instance-connect"),
        (Shell::Fish, "ec2-instance-connect.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "ec2-instance-connect", &mut text);
        fs::write(directory.join(file), text)?;
    }
    Ok(())
}
