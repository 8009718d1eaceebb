//! The pictures of `topology --pictures`.

use std::path::Path;

use crate::cli::error::{Context, Result, bail};
use crate::report::chart;
use crate::report::{escape, note};
use crate::topology::pictures::{Grid, draw};
use crate::topology::{Header, Journal, Layer, fans};

/// Most frames of an animation; beyond, every second one is left out.
const FRAMES: usize = 240;
/// Seconds of an animation.
const SECONDS: f64 = 12.0;
/// Longest side of a mask, in squares.
const LONGEST: usize = 400;

/// Frames of the first layer's mask, collected during a replay.
pub struct Film {
    frames: Vec<Grid>,
    /// Records from one frame to the next.
    every: usize,
    seen: usize,
    /// Whether frames are connections of the input's pixels.
    inputs: bool,
}

impl Film {
    pub fn new(header: &Header) -> Self {
        let first = header.layers.first();
        let inputs = first.is_some_and(|l| Grid::inputs(&header.input, l, &vec![0; l.weights()]).is_some());
        Film {
            frames: vec![],
            every: 1,
            seen: 0,
            inputs,
        }
    }

    /// Adds the masks of a journal.
    pub fn add(&mut self, journal: &Journal) {
        if self.seen.is_multiple_of(self.every)
            && let Some(grid) = self.frame(journal, journal.masks())
        {
            self.frames.push(grid);
        }
        self.seen += 1;
        if self.frames.len() > FRAMES {
            self.every *= 2;
            let mut at = 0;
            self.frames.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
    }

    fn frame(&self, journal: &Journal, masks: &[Vec<u8>]) -> Option<Grid> {
        let (layer, mask) = (journal.header().layers.first()?, masks.first()?);
        match self.inputs {
            true => Grid::inputs(&journal.header().input, layer, mask),
            false => Some(Grid::mask(layer, mask, LONGEST)),
        }
    }
}

/// Writes all pictures. `first` are the first masks of the journal.
pub fn write(folder: &Path, film: &Film, journal: &Journal, first: &[Vec<u8>]) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        bail!("{}: a file, expected a folder for pictures", escape::path(folder));
    }
    std::fs::create_dir_all(folder).context(format!("{}: not created", escape::path(folder)))?;
    let mut written = 0;
    let mut save = |name: String, bytes: Vec<u8>| {
        written += 1;
        super::super::write_file(&folder.join(name), &bytes)
    };
    let both = [film.frame(journal, first), film.frame(journal, journal.masks())];
    let both: Vec<Grid> = both.into_iter().flatten().collect();
    let frames: Vec<Vec<Grid>> = film.frames.iter().map(|grid| vec![grid.clone()]).collect();
    let largest = frames
        .iter()
        .flatten()
        .chain(&both)
        .map(Grid::largest)
        .fold(0.0, f32::max);
    if !both.is_empty() {
        let (stem, scale) = if film.inputs {
            ("inputs", 10)
        } else {
            ("first-layer", 2)
        };
        save(format!("{stem}.png"), draw(&[both], largest, scale).png(0.0)?)?;
        save(
            format!("{stem}-animated.png"),
            draw(&frames, largest, scale).png(SECONDS)?,
        )?;
    }
    for ((layer, mask), before) in journal.header().layers.iter().zip(journal.masks()).zip(first) {
        let name = layer.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let grid = Grid::mask(layer, mask, LONGEST);
        let largest = grid.largest();
        save(format!("mask-{name}.png"), draw(&[vec![grid]], largest, 2).png(0.0)?)?;
        if let Some(chart) = histogram(layer, before, mask) {
            save(format!("fan-in-{name}.svg"), chart::alone(&chart).into_bytes())?;
        }
    }
    note!("{written} pictures in {}", escape::path(folder));
    Ok(())
}

/// Histogram of the fan-in of a layer's units, at first and now.
fn histogram(layer: &Layer, before: &[u8], now: &[u8]) -> Option<chart::Chart> {
    let series = [("first masks", before), ("now", now)].map(|(name, mask)| {
        let fan_in = fans(layer, mask).fan_in.into_iter().map(f64::from);
        (name.to_owned(), fan_in.collect::<Vec<_>>())
    });
    let labels = chart::Labels {
        title: layer.name.clone(),
        x: "connections into a unit".into(),
        y: "units".into(),
    };
    chart::histogram(&labels, &series)
}
