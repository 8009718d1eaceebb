//! Data sets in memory as records: MNIST and similar sets, CIFAR-10.

use std::path::Path;

use png::{BitDepth, ColorType, Encoder};

use super::{Error, Result};
use crate::data::tfrecord::labelled::encode_small;
use crate::data::{Dataset, Split, cifar, mnist};

/// A data set and the colour type of its images.
#[derive(Debug)]
pub(super) struct PixelSet {
    pub set: Dataset,
    height: usize,
    width: usize,
    colour: ColorType,
}

impl PixelSet {
    /// Reads a split from a folder; `None` if the folder has neither kind of set.
    ///
    /// # Errors
    /// Those of the readers.
    pub fn open(dir: &Path, split: Split) -> Result<Option<Self>> {
        if cifar::folder(dir).join(cifar::TEST_FILE).is_file() {
            let set = cifar::load(dir, split)?;
            let [height, width] = [cifar::SIDE; 2];
            let colour = ColorType::Rgb;
            return Ok(Some(PixelSet {
                set,
                height,
                width,
                colour,
            }));
        }
        if mnist::is_in(dir) {
            let set = mnist::load(dir, split)?;
            let [height, width] = [mnist::SIDE; 2];
            let colour = ColorType::Grayscale;
            return Ok(Some(PixelSet {
                set,
                height,
                width,
                colour,
            }));
        }
        Ok(None)
    }

    /// Encodes example `index` as a record: a PNG and its class, from 0.
    ///
    /// # Errors
    /// Images of unexpected size.
    pub fn record(&self, index: usize) -> Result<Vec<u8>> {
        let image = self.height * self.width * self.colour.samples();
        let pixels = self.set.images.bytes().chunks_exact(image).nth(index);
        let label = self.set.labels.bytes().as_chunks().0.get(index);
        let picture = pixels.ok_or_else(|| "no such image".to_owned());
        let picture = picture.and_then(|pixels| self.encode(pixels).map_err(|e| e.to_string()));
        let picture = picture.map_err(|problem| Error::Picture {
            name: format!("example {index}"),
            problem,
        })?;
        let label = label.map_or(0, |label| i32::from_le_bytes(*label));
        Ok(encode_small(&picture, label.into()))
    }

    fn encode(&self, pixels: &[u8]) -> std::result::Result<Vec<u8>, png::EncodingError> {
        let mut file = vec![];
        let mut encoder = Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(self.colour);
        encoder.set_depth(BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(pixels)?;
        writer.finish()?;
        Ok(file)
    }
}
