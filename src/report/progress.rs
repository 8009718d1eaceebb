//! Training progress: a bar on a terminal, else a line every ten seconds. Always on standard error.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_INTERVAL: Duration = Duration::from_secs(10);
const TEMPLATE: &str = "{bar:32} {pos}/{len} {msg} ETA {eta}";

/// Progress of one run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    /// Iteration and time at which this process started training.
    start: (u64, Instant),
    last_line: Instant,
    silent: bool,
}

impl Progress {
    /// Creates the progress of iterations `start` to `total`.
    pub fn new(start: u64, total: u64) -> Self {
        let quiet = log::max_level() == log::LevelFilter::Off;
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(5),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_position(start);
        bar.reset_eta();
        let now = Instant::now();
        Progress {
            bar,
            total,
            start: (start, now),
            last_line: now,
            silent: quiet,
        }
    }

    /// Hides the bar, because another process shows it.
    pub fn silent(mut self) -> Self {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        self.silent = true;
        self
    }

    /// Shows that `iteration` iterations are done, with the latest training loss and accuracy (a fraction).
    pub fn update(&mut self, iteration: u64, loss: f32, accuracy: f32) {
        let accuracy = 100.0 * accuracy;
        self.advance(iteration, |rate| {
            format!("{rate:.0} it/s, loss {loss:.4}, accuracy {accuracy:.2} %,")
        });
    }

    /// Shows that `iteration` items are done, with the text of `figures` for the rate per second.
    pub fn advance(&mut self, iteration: u64, figures: impl FnOnce(f64) -> String) {
        let rate = rate(iteration - self.start.0.min(iteration), self.start.1.elapsed());
        if self.bar.is_hidden() {
            if !self.silent && self.last_line.elapsed() >= LINE_INTERVAL {
                self.last_line = Instant::now();
                crate::report::note!(
                    "{iteration}/{} {} ETA {}",
                    self.total,
                    figures(rate),
                    eta(self.total.saturating_sub(iteration), rate)
                );
            }
            return;
        }
        self.bar.set_message(figures(rate));
        self.bar.set_position(iteration);
    }

    /// Prints a line above the bar.
    pub fn println(&self, line: &str) {
        if !self.silent {
            self.bar.suspend(|| crate::report::note!("{line}"));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Iterations per second; 0 if no time has passed.
fn rate(iterations: u64, elapsed: Duration) -> f64 {
    match elapsed.as_secs_f64() {
        0.0 => 0.0,
        seconds => iterations as f64 / seconds,
    }
}

/// `4m05s`, or `-` while the rate is unknown.
fn eta(iterations: u64, rate: f64) -> String {
    if rate <= 0.0 {
        return "-".into();
    }
    let seconds = (iterations as f64 / rate).ceil() as u64;
    format!("{}m{:02}s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_time_follows_the_rate() {
        assert_eq!(rate(500, Duration::from_secs(2)), 250.0);
        assert_eq!(rate(0, Duration::ZERO), 0.0);
        assert_eq!(eta(61_000, 250.0), "4m04s");
        assert_eq!(eta(1, 0.0), "-");
    }
}
