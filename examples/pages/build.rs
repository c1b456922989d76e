//! Makes a module of each program in README and docs that names a server. `# ` begins lines that
//! a page hides, as in doctests.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The server of the pages, in place of which a test has its own.
const SERVER: &str = "\"redis://127.0.0.1/\"";

fn main() -> io::Result<()> {
    let root = Path::new("../..");
    let mut pages = vec![root.join("README.md")];
    println!("cargo::rerun-if-changed=../../docs");
    println!("cargo::rerun-if-changed=../../README.md");
    for entry in fs::read_dir(root.join("docs"))? {
        pages.push(entry?.path());
    }
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    let (mut modules, mut starts) = (String::new(), String::new());
    for page in pages {
        let name = page.file_stem().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase().replace('-', "_");
        let text = fs::read_to_string(&page)?;
        let programs = text.split("```rust,no_run\n").skip(1);
        for (number, program) in (1..).zip(programs) {
            let program = program.split("\n```").next().unwrap_or_default();
            let lines = program.lines();
            let program: Vec<_> = lines
                .map(|line| line.strip_prefix("# ").unwrap_or(line))
                .collect();
            let program = program.join("\n");
            if !program.contains(SERVER) {
                continue;
            }
            let program = program.replace(SERVER, "crate::url()");
            let start = "pub fn start() -> std::process::ExitCode {\n\
                         std::process::Termination::report(main()) }";
            let _ = writeln!(modules, "mod {name}_{number} {{\n{program}\n{start}\n}}");
            let _ = writeln!(starts, "\"{name}_{number}\" => {name}_{number}::start(),");
        }
    }
    let start = format!(
        "fn start(name: &str) -> std::process::ExitCode {{\nmatch name {{\n{starts}\
         _ => panic!(\"there is no program {{name}}\"),\n}}\n}}\n"
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("programs.rs"), modules + &start)
}
