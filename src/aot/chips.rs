//! Properties of TPU and GPU chips, and topologies of them.

use std::collections::BTreeMap;
use std::fmt;

use super::Error;
use super::gpu::{Gpu, KIB, MIB};
use super::scale::Host;
use pjrt::{DeviceKind, OptionValue};
use sparse::names::Unknown;

/// One generation of TPU chips, or one GPU. All figures are per chip, not per core.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Generation {
    /// Name in the plugin's topologies.
    pub name: &'static str,
    /// Axes of a topology: 2 (a plane) or 3; 1 for the GPUs of a machine, all connected with each other.
    pub axes: usize,
    /// TensorCores of a TPU, multiprocessors of a GPU.
    pub cores: usize,
    /// Memory (HBM), in bytes; for a GPU, without the driver's share.
    pub memory_bytes: u64,
    /// Peak operations per second in bf16; for a GPU, without structured sparsity.
    pub flops: f64,
    /// Peak memory bandwidth, in bytes per second.
    pub memory_rate: f64,
    /// Peak bytes per second that a chip sends over all its links together.
    pub link_rate: f64,
    /// Length from which chips along an axis form a ring: a multiple of it in all directions for cubes.
    pub ring: usize,
    /// The machine with the chips.
    pub host: Host,
    /// Source of the figures, and which of them are guesses.
    pub source: &'static str,
    /// Description of a GPU for its compiler; the compiler for TPUs knows its chips by name.
    pub gpu: Option<Gpu>,
}

const GIB: u64 = 1 << 30;

/// Bytes per second from gigabits per second.
const fn gbit(rate: f64) -> f64 {
    rate * 1e9 / 8.0
}

/// A machine of Google Cloud, with figures as commonly quoted.
const fn cloud(chips: usize, processors: usize) -> Host {
    Host {
        chips,
        processors: Some(processors),
        source: "Cloud TPU machines as commonly quoted; not checked against a document",
    }
}

const V5E_HOST: Host = Host {
    source: "Cloud TPU documentation, TPU v5e, VM types",
    ..cloud(8, 224)
};

const V5P_HOST: Host = Host {
    source: "Cloud TPU documentation, TPU v5p, system architecture",
    ..cloud(4, 208)
};

const DGX: Host = Host {
    chips: 8,
    processors: None,
    source: "DGX and HGX machines; processors differ",
};

/// The multiprocessors of the H100 and of the H200, which has more memory.
const HOPPER: Gpu = Gpu {
    model: "NVIDIA H100 80GB HBM3",
    capability: [9, 0],
    lanes: 128,
    clock: 1.98,
    cache_bytes: 50 * MIB,
    shared_bytes: 228 * KIB,
};

const H100: Generation = Generation {
    name: "h100",
    axes: 1,
    cores: 132,
    memory_bytes: 84_942_979_072,
    flops: 989e12,
    memory_rate: 3352e9,
    link_rate: 900e9 / 2.0,
    ring: 1,
    host: DGX,
    source: "XLA's description (memory) and NVIDIA's datasheet as commonly quoted (rates; not checked), SXM",
    gpu: Some(HOPPER),
};

/// Every generation, oldest first. Link rates are for sending: half of the documented bidirectional rates.
pub const GENERATIONS: [Generation; 11] = [
    Generation {
        name: "v2",
        axes: 2,
        cores: 2,
        memory_bytes: 16 * GIB,
        flops: 46e12,
        memory_rate: 700e9,
        link_rate: gbit(4.0 * 496.0),
        ring: 16,
        host: cloud(4, 96),
        source: "as commonly quoted for TPU v2; not checked against a document",
        gpu: None,
    },
    Generation {
        name: "v3",
        axes: 2,
        cores: 2,
        memory_bytes: 32 * GIB,
        flops: 123e12,
        memory_rate: 900e9,
        link_rate: gbit(4.0 * 656.0),
        ring: 32,
        host: cloud(4, 96),
        source: "Cloud TPU documentation, TPU v3, system architecture; links as commonly quoted, not checked",
        gpu: None,
    },
    Generation {
        name: "v4",
        axes: 3,
        cores: 2,
        memory_bytes: 32 * GIB,
        flops: 275e12,
        memory_rate: 1200e9,
        link_rate: 6.0 * 50e9,
        ring: 4,
        host: cloud(4, 240),
        source: "Cloud TPU documentation, TPU v4, system architecture; links as commonly quoted, not checked",
        gpu: None,
    },
    Generation {
        name: "v5e",
        axes: 2,
        cores: 1,
        memory_bytes: 16 * GIB,
        flops: 197e12,
        memory_rate: 819e9,
        link_rate: 400e9 / 2.0,
        ring: 16,
        host: V5E_HOST,
        source: "Cloud TPU documentation, TPU v5e, system architecture",
        gpu: None,
    },
    Generation {
        name: "v5p",
        axes: 3,
        cores: 2,
        memory_bytes: 95 * GIB,
        flops: 459e12,
        memory_rate: 2765e9,
        link_rate: 1200e9 / 2.0,
        ring: 4,
        host: V5P_HOST,
        source: "Cloud TPU documentation, TPU v5p, system architecture",
        gpu: None,
    },
    Generation {
        name: "v6e",
        axes: 2,
        cores: 1,
        memory_bytes: 32 * GIB,
        flops: 918e12,
        memory_rate: 1600e9,
        link_rate: 800e9 / 2.0,
        ring: 16,
        host: cloud(8, 180),
        source: "Cloud TPU documentation, TPU v6e, system architecture",
        gpu: None,
    },
    Generation {
        name: "tpu7x",
        axes: 3,
        cores: 2,
        memory_bytes: 192 * GIB,
        flops: 2307e12,
        memory_rate: 7380e9,
        link_rate: 1200e9 / 2.0,
        ring: 4,
        host: cloud(4, 224),
        source: "Cloud TPU documentation, TPU7x (Ironwood), system architecture",
        gpu: None,
    },
    Generation {
        name: "a100",
        axes: 1,
        cores: 108,
        memory_bytes: 85_100_068_864,
        flops: 312e12,
        memory_rate: 2039e9,
        link_rate: 600e9 / 2.0,
        ring: 1,
        host: DGX,
        source: "XLA's description (memory) and NVIDIA's datasheet as commonly quoted (rates; not checked), SXM",
        gpu: Some(Gpu {
            model: "NVIDIA A100-SXM4-80GB",
            capability: [8, 0],
            lanes: 64,
            clock: 1.41,
            cache_bytes: 40 * MIB,
            shared_bytes: 164 * KIB,
        }),
    },
    H100,
    Generation {
        name: "h200",
        memory_bytes: 151_397_597_184,
        memory_rate: 4800e9,
        gpu: Some(Gpu {
            model: "NVIDIA H200",
            ..HOPPER
        }),
        ..H100
    },
    Generation {
        name: "b200",
        axes: 1,
        cores: 148,
        memory_bytes: 191_514_411_008,
        flops: 2250e12,
        memory_rate: 7672e9,
        link_rate: 1800e9 / 2.0,
        ring: 1,
        host: DGX,
        source: "XLA's description (memory) and NVIDIA's datasheet as commonly quoted (rates; not checked), DGX",
        gpu: Some(Gpu {
            model: "NVIDIA B200",
            capability: [10, 0],
            lanes: 128,
            clock: 1.965,
            cache_bytes: 132_644_864,
            shared_bytes: 228 * KIB,
        }),
    },
];

impl Generation {
    /// The kind of device that a chip is.
    pub fn device(&self) -> DeviceKind {
        match self.gpu {
            Some(_) => DeviceKind::Gpu,
            None => DeviceKind::Tpu,
        }
    }
}

/// Chips of one generation in a grid: `v5e:2x2`, `v4:2x2x1`, `h200:8`.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Generation of the chips.
    pub generation: &'static Generation,
    /// Chips along each axis.
    pub sides: Vec<usize>,
}

impl Grid {
    /// Maximum number of chips of a grid: more than the largest machine has.
    const MAX_CHIPS: usize = 1 << 16;

    /// Reads `GENERATION:A`, `GENERATION:AxB` or `GENERATION:AxBxC`.
    ///
    /// # Errors
    /// An unknown generation, or sides that no grid of it has.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (name, sides) = text.split_once(':').unwrap_or((text, ""));
        let generation = GENERATIONS.iter().find(|g| g.name == name);
        let unknown = || Error::Generation(Unknown::new("generation", name, GENERATIONS.iter().map(|g| g.name)));
        let generation = generation.ok_or_else(unknown)?;
        let read: Option<Vec<usize>> = sides.split('x').map(|side| side.parse().ok()).collect();
        let chips = |sides: &Vec<usize>| sides.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let fits = |sides: &Vec<usize>| {
            sides.len() == generation.axes && chips(sides).is_some_and(|n| (1..=Self::MAX_CHIPS).contains(&n))
        };
        let sides = read.filter(fits).ok_or_else(|| Error::Sides {
            found: text.into(),
            example: format!("{name}:{}", ["8", "2x2", "2x2x1"][generation.axes - 1]),
        })?;
        Ok(Grid { generation, sides })
    }

    /// Number of chips.
    pub fn chips(&self) -> usize {
        self.sides.iter().product()
    }

    /// Options that describe the chips to the plugin, besides the grid's name.
    pub fn options(&self) -> BTreeMap<String, OptionValue> {
        let Some(gpu) = self.generation.gpu else {
            return BTreeMap::new();
        };
        [
            ("target_config", gpu.target(self.generation)),
            // Machines of one process, and the chips of each.
            ("topology", format!("1x1x{}", self.chips())),
        ]
        .map(|(name, value)| (name.to_owned(), OptionValue::Str(value)))
        .into()
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides: Vec<String> = self.sides.iter().map(usize::to_string).collect();
        write!(f, "{}:{}", self.generation.name, sides.join("x"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_read_and_written() {
        for (text, chips) in [
            ("v5e:2x2", 4),
            ("v4:2x2x4", 16),
            ("tpu7x:1x1x1", 1),
            ("v3:4x4", 16),
            ("h200:8", 8),
        ] {
            let grid = Grid::parse(text).unwrap();
            assert_eq!((grid.to_string().as_str(), grid.chips()), (text, chips));
        }
    }

    #[test]
    fn wrong_grids_name_what_is_expected() {
        let message = |text| Grid::parse(text).unwrap_err().to_string();
        assert!(message("v5:2x2").contains("v5e, v5p"), "{}", message("v5:2x2"));
        for text in [
            "v5e",
            "v5e:2x2x1",
            "v4:2x2",
            "v5e:0x2",
            "v5e:2xtwo",
            "v5e:-1x2",
            "v5e:99999999999x99999999999",
        ] {
            let example = if text.starts_with("v4") { "v4:2x2x1" } else { "v5e:2x2" };
            assert!(message(text).contains(example), "{}", message(text));
        }
    }

    #[test]
    fn newer_chips_of_a_kind_have_more_of_everything() {
        for pair in [
            ["v2", "v3"],
            ["v3", "v4"],
            ["v4", "v5p"],
            ["v5p", "tpu7x"],
            ["v5e", "v6e"],
        ] {
            let [old, new] = pair.map(|name| GENERATIONS.iter().find(|g| g.name == name).unwrap());
            assert!(new.flops > old.flops && new.memory_rate > old.memory_rate, "{pair:?}");
            assert!(new.memory_bytes >= old.memory_bytes, "{pair:?}");
        }
    }
}
