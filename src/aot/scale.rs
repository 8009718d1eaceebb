//! What many chips depend on besides themselves: the links between them, and the hosts that feed them.

use super::chips::Grid;
use crate::config::Plan;
use serde::Serialize;

/// Pictures per second that a core reads, decodes and augments for training: `scripts/bench/results/pipeline.md`, pictures of
/// 97 KB on an AMD EPYC. The cores of hosts differ.
pub const PICTURES_PER_CORE: f64 = 1010.0;

/// The machine that chips are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Host {
    /// Chips of a full machine.
    pub chips: usize,
    /// Virtual processors, two to a core; `None` if unknown.
    pub processors: Option<usize>,
    /// Source of the figures.
    pub source: &'static str,
}

impl Grid {
    /// Whether the chips along an axis of this length form a ring. Shorter ones form a line, without a link from end to end.
    fn is_ring(&self, side: usize) -> bool {
        match self.generation.axes {
            // Planes are closed only at the full size of a pod.
            2 => side >= self.generation.ring,
            // Cubes are closed by optical switches, in every direction at once.
            _ => self.sides.iter().all(|side| side % self.generation.ring == 0),
        }
    }

    /// Bytes per second that the chip with the fewest links can send. 0 for a single chip.
    pub fn sending_rate(&self) -> f64 {
        let chip = self.generation;
        if chip.axes == 1 {
            // A switch connects each chip with all others.
            return if self.chips() > 1 { chip.link_rate } else { 0.0 };
        }
        let links = |&side: &usize| match side {
            1 => 0,
            side if self.is_ring(side) => 2,
            _ => 1,
        };
        let links: usize = self.sides.iter().map(links).sum();
        chip.link_rate * links as f64 / (2 * chip.axes) as f64
    }

    /// Lower bound of the seconds to all-reduce `bytes` on every chip: to scatter sums and gather them, each chip sends all
    /// bytes but its own part twice, over all its links at once. Latency is not counted.
    pub fn all_reduce_s(&self, bytes: f64) -> f64 {
        let chips = self.chips() as f64;
        match self.sending_rate() {
            0.0 => 0.0,
            rate => 2.0 * bytes * (chips - 1.0) / chips / rate,
        }
    }

    /// Number of hosts.
    pub fn hosts(&self) -> usize {
        self.chips().div_ceil(self.generation.host.chips)
    }
}

/// The input that each host must supply, and what this program's pipeline supplies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Input {
    /// Number of hosts.
    pub hosts: usize,
    /// Chips of each.
    pub chips_per_host: usize,
    /// Examples per second that a host must feed at most.
    pub examples_per_host_s: f64,
    /// Bytes per second of images that a host then sends to its chips.
    pub bytes_per_host_s: f64,
    /// Examples per second that a core prepares; `None` for examples that need no preparing.
    pub examples_per_core_s: Option<f64>,
    /// Cores that a host needs for it.
    pub cores_needed: Option<f64>,
    /// Cores that a host has.
    pub cores: Option<usize>,
    /// Whether the input is the limit; `None` if the host's cores are unknown.
    pub is_limit: Option<bool>,
}

impl Input {
    /// The input of a run whose chips together take at most `rate` examples per second; `None` if the examples stay on the
    /// chips.
    pub fn new(plan: &Plan, grid: &Grid, rate: f64) -> Option<Self> {
        if !plan.streams() {
            return None;
        }
        let (hosts, host) = (grid.hosts(), grid.generation.host);
        let each = rate / hosts as f64;
        let per_core = plan.exported.is_none().then_some(PICTURES_PER_CORE);
        let needed = per_core.map(|per_core| each / per_core);
        // A smaller machine has a part of the processors.
        let chips = grid.chips().div_ceil(hosts);
        let cores = host.processors.map(|all| (all / 2 * chips / host.chips).max(1));
        let image_bytes = plan.batch_bytes() as f64 / plan.run.train.batch_size as f64;
        Some(Input {
            hosts,
            chips_per_host: chips,
            examples_per_host_s: each,
            bytes_per_host_s: each * image_bytes,
            examples_per_core_s: per_core,
            cores_needed: needed,
            cores,
            is_limit: match needed {
                None => Some(false),
                Some(needed) => cores.map(|cores| needed > cores as f64),
            },
        })
    }
}

impl std::fmt::Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Input {
            hosts, chips_per_host, ..
        } = self;
        write!(
            f,
            "{:.0} examples/s ({:.2} GB/s of images) for each of {hosts} hosts with {chips_per_host} chips",
            self.examples_per_host_s,
            1e-9 * self.bytes_per_host_s
        )?;
        let (Some(needed), Some(each)) = (self.cores_needed, self.examples_per_core_s) else {
            return Ok(());
        };
        write!(f, "; {needed:.1} cores at {each:.0} examples/s each")?;
        match (self.cores, self.is_limit) {
            (Some(cores), Some(true)) => write!(f, ", and a host has {cores}: the input is the limit"),
            (Some(cores), _) => write!(f, " of a host's {cores}"),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Worked by hand: links of 50 GB/s (v5e, v4) and 100 GB/s (v5p) in each direction.
    #[test]
    fn all_reduce_uses_the_links_of_the_worst_chip() {
        let seconds = |grid: &str| Grid::parse(grid).unwrap().all_reduce_s(1e9);
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        assert_eq!(seconds("v5e:1x1"), 0.0);
        // A corner of a square has two links, a corner of a line one.
        close(seconds("v5e:2x2"), 2e9 * 0.75 / 100e9);
        close(seconds("v5e:1x4"), 2e9 * 0.75 / 50e9);
        close(seconds("v5e:8x8"), 2e9 * (63.0 / 64.0) / 100e9);
        // A full pod is closed: four links.
        close(seconds("v5e:16x16"), 2e9 * (255.0 / 256.0) / 200e9);
        close(seconds("v5e:8x16"), 2e9 * (127.0 / 128.0) / 150e9);
        // A single cube and more are closed in all directions.
        close(seconds("v4:4x4x8"), 2e9 * (127.0 / 128.0) / 300e9);
        close(seconds("v4:2x2x1"), 2e9 * 0.75 / 100e9);
        close(seconds("v5p:4x8x8"), 2e9 * (255.0 / 256.0) / 600e9);
        close(seconds("h100:8"), 2e9 * 0.875 / 450e9);
    }

    #[test]
    fn a_host_feeds_its_own_chips() {
        let plan = |data: &str| {
            let layers = crate::config::Layers::preset("resnet50-rigl").unwrap();
            layers.set("--data", &["data", "name"], data).unwrap().plan().unwrap()
        };
        let grid = Grid::parse("v5e:16x16").unwrap();
        let input = Input::new(&plan("imagenet"), &grid, 32.0 * 101_000.0).unwrap();
        assert_eq!((input.hosts, input.chips_per_host, input.cores), (32, 8, Some(112)));
        assert_eq!(input.cores_needed, Some(100.0));
        assert_eq!(input.is_limit, Some(false));
        let input = Input::new(&plan("imagenet"), &Grid::parse("v5e:1x1").unwrap(), 101_000.0).unwrap();
        assert_eq!((input.cores, input.is_limit), (Some(14), Some(true)));
        assert!(input.to_string().ends_with("the input is the limit"), "{input}");
        assert_eq!(Input::new(&plan("synthetic"), &grid, 1e9), None);
    }
}
