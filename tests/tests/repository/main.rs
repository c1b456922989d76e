//! What the repository says of itself, compared with what is in it: pages, packages, deployments,
//! scripts, tests.

mod commands;
mod dependencies;
mod deploy;
mod described;
mod files;
mod guarantees;
mod links;
mod pages;
mod programs;
mod publishing;
mod run_script;
mod runbook;
mod suites;
