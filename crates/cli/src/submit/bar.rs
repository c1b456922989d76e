//! How far it is.

use std::fmt;
use std::io::{self, IsTerminal};

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

/// Shown where somebody looks on and it may take a while: for more than `quick` streams.
pub(super) fn new(all: Option<usize>, quick: usize) -> ProgressBar {
    if all.is_some_and(|all| all <= quick) || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    of(all)
}

fn of(all: Option<usize>) -> ProgressBar {
    let (bar, template) = match all {
        Some(all) => {
            let all = u64::try_from(all).unwrap_or(u64::MAX);
            let template = "{bar:40} {human_pos}/{human_len} submitted, {rate}, {eta} left";
            (ProgressBar::new(all), template)
        }
        None => (
            ProgressBar::no_length(),
            "{spinner} {human_pos} submitted, {rate}",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(
        style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("rate", rate),
    )
}

/// In whole streams.
fn rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    // It fails where this cannot be shown; a number is cut to what its type holds.
    let _ = write!(out, "{}/s", HumanCount(state.per_sec().round() as u64));
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that keeps what is written.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<String>>);

    impl TermLike for Kept {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            *self.0.lock().unwrap() += text;
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_bar_has_whole_numbers_that_can_be_read() {
        for (all, begins) in [
            (Some(100_000), "12,345/100,000 submitted, "),
            (None, "12,345 submitted, "),
        ] {
            let shown = Kept::default();
            let bar = of(all);
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(shown.clone())));
            bar.inc(12_345);
            bar.tick();
            let text = shown.0.lock().unwrap().clone();
            let (_, behind) = text
                .split_once(begins)
                .unwrap_or_else(|| panic!("{text:?} lacks {begins:?}"));
            let (rate, _) = behind.split_once("/s").unwrap();
            let is_whole = rate.chars().all(|c| c.is_ascii_digit() || c == ',');
            assert!(is_whole && !rate.is_empty(), "{text:?}");
        }
    }
}
