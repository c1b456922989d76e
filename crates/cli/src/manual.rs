//! `streamlease completions` and `streamlease man`: made of the arguments as they are.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::Failure;
use crate::args::Cli;
use crate::output;

pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "streamlease", &mut script);
    print(&script)
}

/// One page, or with a directory one for each subcommand there.
pub(crate) fn pages(dir: Option<&Path>) -> Result<(), Failure> {
    let mut command = Cli::command();
    // Subcommands learn their whole name.
    command.build();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = Man::new(command).render(&mut page);
        rendered.map_err(|err| Failure::other(err.to_string()))?;
        return print(&page);
    };
    write(command, "streamlease", dir)
        .map_err(|err| Failure::other(format!("--dir: {}: {err}", dir.display())))
}

fn write(command: clap::Command, name: &str, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        if below.get_name() != "help" {
            write(below.clone(), &format!("{name}-{}", below.get_name()), dir)?;
        }
    }
    let mut file = File::create(dir.join(format!("{name}.1")))?;
    Man::new(command.display_name(name.to_owned())).render(&mut file)?;
    file.flush()
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    output::print(&String::from_utf8_lossy(bytes)).map(drop)
}
