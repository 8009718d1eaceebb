//! Builds the graph of an ONNX model.

use half::bf16;

use super::proto::{
    Attribute, Dimension, Graph, Node, Shape, SparseTensor, Tensor, TensorType, Type, ValueInfo, attribute_type,
    data_type,
};

/// How a kernel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Every value as f32.
    F32,
    /// Every value as bf16.
    Bf16,
    /// The values other than 0, as f32.
    SparseF32,
    /// The values other than 0, as bf16.
    SparseBf16,
}

/// Nodes and initializers so far.
#[derive(Default)]
pub struct Builder {
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
    sparse: Vec<SparseTensor>,
}

impl Builder {
    /// Adds a node with one result, which has its name.
    pub fn node(&mut self, op: &str, inputs: &[impl AsRef<str>], name: &str, attribute: Vec<Attribute>) -> String {
        self.nodes.push(Node {
            input: inputs.iter().map(|input| input.as_ref().to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
        name.to_owned()
    }

    /// Converts to f32.
    pub fn cast(&mut self, input: &str, name: &str) -> String {
        self.node("Cast", &[input], name, vec![int("to", data_type::FLOAT as usize)])
    }

    /// Adds f32 numbers.
    pub fn f32s(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes = bytemuck::cast_slice(values).to_vec();
        self.initializers.push(tensor(name, data_type::FLOAT, dims, bytes));
        name.to_owned()
    }

    /// Adds a row of s64 numbers.
    pub fn i64s(&mut self, name: &str, values: &[i64]) -> String {
        if !self.initializers.iter().any(|known| known.name == name) {
            let bytes = bytemuck::cast_slice(values).to_vec();
            self.initializers
                .push(tensor(name, data_type::INT64, &[values.len()], bytes));
        }
        name.to_owned()
    }

    /// Adds a kernel, and returns the name of its f32 values.
    pub fn weights(&mut self, name: &str, dims: &[usize], values: &[f32], weights: Weights) -> String {
        let bf16 = matches!(weights, Weights::Bf16 | Weights::SparseBf16);
        let stored = if bf16 { format!("{name}/bf16") } else { name.to_owned() };
        let element = if bf16 { data_type::BFLOAT16 } else { data_type::FLOAT };
        let bytes = |values: &[f32]| match bf16 {
            true => bf16_bytes(values),
            false => bytemuck::cast_slice(values).to_vec(),
        };
        match weights {
            Weights::F32 | Weights::Bf16 => self.initializers.push(tensor(&stored, element, dims, bytes(values))),
            Weights::SparseF32 | Weights::SparseBf16 => {
                let kept = || values.iter().enumerate().filter(|(_, value)| **value != 0.0);
                let indices: Vec<i64> = kept().map(|(index, _)| index as i64).collect();
                let kept: Vec<f32> = kept().map(|(_, &value)| value).collect();
                self.sparse.push(SparseTensor {
                    values: Some(tensor(&stored, element, &[kept.len()], bytes(&kept))),
                    indices: Some(tensor(
                        &format!("{stored}/indices"),
                        data_type::INT64,
                        &[indices.len()],
                        bytemuck::cast_slice(&indices).to_vec(),
                    )),
                    dims: dims.iter().map(|&dim| dim as i64).collect(),
                });
            }
        }
        match bf16 {
            true => self.cast(&stored, name),
            false => stored,
        }
    }

    /// The graph.
    pub fn finish(self, name: &str, input: ValueInfo, output: ValueInfo) -> Graph {
        Graph {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.initializers,
            input: vec![input],
            output: vec![output],
            sparse_initializer: self.sparse,
        }
    }
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
        .collect()
}

fn tensor(name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) -> Tensor {
    Tensor {
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        data_type,
        name: name.to_owned(),
        raw_data,
    }
}

/// An input or output of the model: any number of examples of these dimensions.
pub fn value(name: &str, element: i32, dims: &[usize]) -> ValueInfo {
    let batch = Dimension {
        value: None,
        parameter: Some("batch".into()),
    };
    let dims = dims.iter().map(|&dim| Dimension {
        value: Some(dim as i64),
        parameter: None,
    });
    let tensor = TensorType {
        element,
        shape: Some(Shape {
            dim: [batch].into_iter().chain(dims).collect(),
        }),
    };
    ValueInfo {
        name: name.to_owned(),
        kind: Some(Type { tensor: Some(tensor) }),
    }
}

/// An attribute of one whole number.
pub fn int(name: &str, value: usize) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: value as i64,
        kind: attribute_type::INT,
        ..Attribute::default()
    }
}

/// An attribute of whole numbers.
pub fn ints(name: &str, values: &[usize]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: values.iter().map(|&value| value as i64).collect(),
        kind: attribute_type::INTS,
        ..Attribute::default()
    }
}

/// An attribute of one number.
pub fn float(name: &str, value: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f: value,
        kind: attribute_type::FLOAT,
        ..Attribute::default()
    }
}

/// An array with its axes in this order, and its new dimensions.
pub fn transposed(values: &[f32], dims: &[usize], axes: &[usize]) -> (Vec<f32>, Vec<usize>) {
    let stride = |axis: usize| dims[axis + 1..].iter().product::<usize>();
    let mut indices = vec![0u32];
    for &axis in axes {
        let step = stride(axis) as u32;
        let next = indices
            .iter()
            .flat_map(|&base| (0..dims[axis] as u32).map(move |i| base + i * step));
        indices = next.collect();
    }
    let moved = indices.iter().map(|&index| values[index as usize]).collect();
    (moved, axes.iter().map(|&axis| dims[axis]).collect())
}
