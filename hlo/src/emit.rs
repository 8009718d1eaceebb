//! Emission of a [`Computation`] as an `HloModuleProto`.

use crate::graph::{Computation, Node, NodeId};
use crate::literal::Literal;
use crate::op::{Comparison, Op, Reducer};
use crate::precision::MatmulPrecision;
use crate::proto;
use crate::shape::{DType, Shape};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// XLA's `PrimitiveType` number for tuples.
pub(crate) const TUPLE: i32 = 13;

/// An output that reuses the memory of a parameter, which may then be donated at each execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Output position.
    pub output: usize,
    /// Parameter position.
    pub parameter: usize,
}

impl Computation {
    /// Emits this computation as the entry of a module. Its root is a tuple of the outputs. The computations of a called
    /// [`crate::Module`] are left out.
    pub fn to_proto(&self, aliases: &[Alias]) -> proto::Module {
        let mut emitter = Emitter {
            precision: self.matmul_precision,
            // Ids after those of the called module.
            last_id: self.module().map_or(0, |module| module.last_id()),
            ..Emitter::default()
        };
        let entry = emitter.emit(self, Calling::Arrays);
        let program_shape = emitter.computations.last().and_then(|c| c.program_shape.clone());
        let entries = aliases
            .iter()
            .map(|alias| proto::AliasEntry {
                output_shape_index: vec![alias.output as i64],
                parameter_number: alias.parameter as i64,
                parameter_shape_index: vec![],
                kind: 1,
            })
            .collect();
        proto::Module {
            name: identifier(&self.name),
            entry_computation_name: emitter.computations.last().map(|c| c.name.clone()).unwrap_or_default(),
            computations: emitter.computations,
            host_program_shape: program_shape,
            id: 1,
            entry_computation_id: entry,
            input_output_alias: Some(proto::InputOutputAlias { entries }),
        }
    }

    /// [`Computation::to_proto`], serialized, with the computations of a called [`crate::Module`] as they came.
    pub fn to_bytes(&self, aliases: &[Alias]) -> Vec<u8> {
        // The concatenation of two messages is the message with the elements of both. Callees come first.
        let mut bytes = self.module().map_or(vec![], |module| module.fields().to_vec());
        bytes.extend(self.to_proto(aliases).encode_to_vec());
        bytes
    }
}

/// How a computation passes its inputs and outputs.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Calling {
    /// One parameter per input; returns a tuple.
    Arrays,
    /// One tuple in, one tuple out: bodies and branches.
    Tuples,
    /// One tuple in, one array out: loop conditions.
    TupleToArray,
}

/// Collects computations, callees before callers.
#[derive(Default)]
pub(crate) struct Emitter {
    computations: Vec<proto::Computation>,
    reducers: BTreeMap<(Option<Reducer>, DType), i64>,
    last_id: i64,
    precision: MatmulPrecision,
}

/// The instructions of one computation under construction.
struct Body {
    name: String,
    instructions: Vec<proto::Instruction>,
}

impl Emitter {
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn emit(&mut self, computation: &Computation, calling: Calling) -> i64 {
        let mut body = Body {
            name: computation.name.clone(),
            instructions: vec![],
        };
        let inputs: Vec<Shape> = computation.parameter_specs().into_iter().map(|(_, s)| s).collect();
        let tuple = (calling != Calling::Arrays).then(|| {
            let shape = tuple_shape(&inputs);
            self.add(&mut body, plain("parameter", shape))
        });
        let mut ids = vec![0; computation.nodes.len()];
        for (id, node) in computation.nodes.iter().enumerate() {
            ids[id] = if let (Op::Parameter { index, .. }, Some(tuple)) = (&node.op, tuple) {
                let mut element = plain("get-tuple-element", shape_proto(node.shape()));
                element.tuple_index = *index as i64;
                element.operand_ids = vec![tuple];
                self.add(&mut body, element)
            } else {
                self.node(&mut body, computation, node, &ids)
            };
        }
        let outputs: Vec<i64> = computation.outputs.iter().map(|&o| ids[o]).collect();
        let (root, result) = match calling {
            Calling::TupleToArray => (outputs[0], shape_proto(&computation.output_shapes()[0])),
            Calling::Arrays | Calling::Tuples => {
                let shape = tuple_shape(&computation.output_shapes());
                (self.tuple(&mut body, shape.clone(), outputs), shape)
            }
        };
        let parameters = match calling {
            Calling::Arrays => inputs.iter().map(shape_proto).collect(),
            Calling::Tuples | Calling::TupleToArray => vec![tuple_shape(&inputs)],
        };
        self.finish(body, root, parameters, result)
    }

    fn finish(&mut self, body: Body, root_id: i64, parameters: Vec<proto::Shape>, result: proto::Shape) -> i64 {
        let id = self.next_id();
        let parameter_names = (0..parameters.len()).map(|i| format!("p{i}")).collect();
        self.computations.push(proto::Computation {
            name: format!("{}.{id}", identifier(&body.name)),
            instructions: body.instructions,
            program_shape: Some(proto::ProgramShape {
                parameters,
                result: Some(result),
                parameter_names,
            }),
            id,
            root_id,
        });
        id
    }

    /// Adds the instruction with a fresh id and a unique name.
    fn add(&mut self, body: &mut Body, mut instruction: proto::Instruction) -> i64 {
        instruction.id = self.next_id();
        let stem = match instruction.name.is_empty() {
            true => instruction.opcode.as_str(),
            false => instruction.name.as_str(),
        };
        instruction.name = format!("{}.{}", identifier(stem), instruction.id);
        let id = instruction.id;
        body.instructions.push(instruction);
        id
    }

    fn tuple(&mut self, body: &mut Body, shape: proto::Shape, elements: Vec<i64>) -> i64 {
        let mut tuple = plain("tuple", shape);
        tuple.operand_ids = elements;
        self.add(body, tuple)
    }

    fn node(&mut self, body: &mut Body, computation: &Computation, node: &Node, ids: &[i64]) -> i64 {
        if let Op::StopGradient | Op::WithVjp(_) = node.op {
            return ids[node.operands[0]];
        }
        let operand_shape = |&id: &NodeId| computation.nodes[id].shape();
        let operands: Vec<&Shape> = node.operands.iter().map(operand_shape).collect();
        let shape = match node.op.yields_tuple() {
            true => tuple_shape(&node.shapes),
            false => shape_proto(node.shape()),
        };
        let mut instruction = plain(node.op.name(), shape);
        instruction.operand_ids = node.operands.iter().map(|&o| ids[o]).collect();
        if let Op::While { .. } = node.op {
            let state = tuple_shape(&node.shapes);
            instruction.operand_ids = vec![self.tuple(body, state, instruction.operand_ids.clone())];
        } else if let Op::Conditional { .. } = node.op {
            let arguments: Vec<Shape> = operands[1..].iter().map(|s| (*s).clone()).collect();
            let packed = self.tuple(body, tuple_shape(&arguments), instruction.operand_ids[1..].to_vec());
            instruction.operand_ids = vec![instruction.operand_ids[0], packed, packed];
        }
        if let Op::TopK { k } = node.op
            && operands[0].dims.last() == Some(&k)
        {
            self.top_k_as_sort(body, operands[0], &mut instruction);
        } else {
            node.op.emit(&operands, self, &mut instruction);
        }
        if matches!(node.op, Op::Dot(_) | Op::Convolution { .. }) && !self.precision.is_default() {
            instruction.precision_config = Some(proto::PrecisionConfig {
                operand_precision: vec![self.precision.number(); operands.len()],
            });
        }
        if !node.scope.is_empty() {
            instruction.metadata = Some(proto::OpMetadata {
                op_type: node.op.name().into(),
                op_name: format!("{}/{}", node.scope, node.op.name()),
            });
        }
        self.add(body, instruction)
    }

    /// A top-k over the whole axis, as a stable sort: some builds sort unstably when `k` is the length of the axis.
    fn top_k_as_sort(&mut self, body: &mut Body, keys: &Shape, top_k: &mut proto::Instruction) {
        let positions = keys.with_dtype(DType::S32);
        let axis = keys.rank() - 1;
        let mut iota = plain("iota", shape_proto(&positions));
        iota.dimensions = vec![axis as i64];
        let sort = Op::Sort { axis, descending: true };
        top_k.opcode = sort.name().into();
        top_k.operand_ids.push(self.add(body, iota));
        sort.emit(&[keys, &positions], self, top_k);
    }

    /// Emits the computations that an operator calls, in this order.
    pub(crate) fn called<const N: usize>(&mut self, called: [(&Arc<Computation>, Calling); N]) -> Vec<i64> {
        called.into_iter().map(|(c, calling)| self.emit(c, calling)).collect()
    }

    /// The scalar computation that combines two elements. `None` returns the second.
    pub(crate) fn reducer(&mut self, reducer: Option<Reducer>, dtype: DType) -> i64 {
        if let Some(&id) = self.reducers.get(&(reducer, dtype)) {
            return id;
        }
        let scalar = shape_proto(&Shape::scalar(dtype));
        let mut body = Body {
            name: reducer.map_or("second", Reducer::name).into(),
            instructions: vec![],
        };
        let parameters = self.parameters(&mut body, &[scalar.clone(), scalar.clone()]);
        let root = match reducer {
            None => parameters[1],
            Some(reducer) => {
                let mut combine = plain(reducer.name(), scalar.clone());
                combine.operand_ids = parameters;
                self.add(&mut body, combine)
            }
        };
        let id = self.finish(body, root, vec![scalar.clone(), scalar.clone()], scalar);
        self.reducers.insert((reducer, dtype), id);
        id
    }

    /// The comparator of a sort, which orders by the elements of the first array.
    pub(crate) fn comparator(&mut self, descending: bool, operands: &[&Shape]) -> i64 {
        let direction = if descending { Comparison::Gt } else { Comparison::Lt };
        let mut compare = plain("compare", shape_proto(&Shape::scalar(DType::Pred)));
        Op::Compare(direction).emit(operands, self, &mut compare);
        if operands[0].dtype.is_float() {
            // A plain float comparison leaves the position of NaN, and thus of all other elements, to the platform.
            compare.comparison_type = "TOTALORDER".into();
        }
        self.comparison("compare", compare, operands)
    }

    /// The select computation of a select-and-scatter: true if the first element is at least as large as the second.
    pub(crate) fn first_of_largest(&mut self, dtype: DType) -> i64 {
        let element = Shape::scalar(dtype);
        let mut compare = plain("compare", shape_proto(&Shape::scalar(DType::Pred)));
        Op::Compare(Comparison::Ge).emit(&[&element], self, &mut compare);
        self.comparison("select", compare, &[&element])
    }

    /// A computation on two elements of each of `arrays` that compares the elements of the first array.
    fn comparison(&mut self, name: &str, mut compare: proto::Instruction, arrays: &[&Shape]) -> i64 {
        let scalar = |s: &&Shape| shape_proto(&Shape::scalar(s.dtype));
        let shapes: Vec<_> = arrays.iter().flat_map(|s| [scalar(s), scalar(s)]).collect();
        let mut body = Body {
            name: name.into(),
            instructions: vec![],
        };
        compare.operand_ids = self.parameters(&mut body, &shapes)[..2].to_vec();
        let root = self.add(&mut body, compare);
        self.finish(body, root, shapes, shape_proto(&Shape::scalar(DType::Pred)))
    }

    fn parameters(&mut self, body: &mut Body, shapes: &[proto::Shape]) -> Vec<i64> {
        let mut parameter = |(i, shape): (usize, &proto::Shape)| {
            let mut parameter = plain("parameter", shape.clone());
            parameter.parameter_number = i as i64;
            self.add(body, parameter)
        };
        shapes.iter().enumerate().map(&mut parameter).collect()
    }
}

/// Replaces the characters that HLO does not allow in a name: `/` by `.`, others by `_`.
pub(crate) fn identifier(name: &str) -> String {
    let allowed = |c: char| match c {
        '/' => '.',
        c if c.is_ascii_alphanumeric() || "_.-".contains(c) => c,
        _ => '_',
    };
    name.chars().map(allowed).collect()
}

fn plain(opcode: &str, shape: proto::Shape) -> proto::Instruction {
    proto::Instruction {
        opcode: opcode.into(),
        shape: Some(shape),
        ..Default::default()
    }
}

/// XLA's `PrimitiveType` number.
pub(crate) fn primitive_type(dtype: DType) -> i32 {
    match dtype {
        DType::Pred => 1,
        DType::S32 => 4,
        DType::S64 => 5,
        DType::U8 => 6,
        DType::U32 => 8,
        DType::U64 => 9,
        DType::F16 => 10,
        DType::F32 => 11,
        DType::F64 => 12,
        DType::BF16 => 16,
    }
}

/// The element type with this `PrimitiveType` number.
pub(crate) fn element_type(number: i32) -> Option<DType> {
    DType::ALL.into_iter().find(|&dtype| primitive_type(dtype) == number)
}

pub(crate) fn shape_proto(shape: &Shape) -> proto::Shape {
    let rank = shape.rank() as i64;
    proto::Shape {
        element_type: primitive_type(shape.dtype),
        dimensions: shape.dims.iter().map(|&d| d as i64).collect(),
        tuple_shapes: vec![],
        layout: Some(proto::Layout {
            minor_to_major: (0..rank).rev().collect(),
            ..Default::default()
        }),
        is_dynamic_dimension: vec![false; shape.rank()],
    }
}

fn tuple_shape(shapes: &[Shape]) -> proto::Shape {
    proto::Shape {
        element_type: TUPLE,
        tuple_shapes: shapes.iter().map(shape_proto).collect(),
        ..Default::default()
    }
}

pub(crate) fn literal_proto(value: &Literal) -> proto::Literal {
    let mut out = proto::Literal {
        shape: Some(shape_proto(value.shape())),
        ..Default::default()
    };
    match value.dtype() {
        DType::Pred => out.preds = value.to_bools().unwrap_or_default(),
        DType::S32 => out.s32s = value.to_vec().unwrap_or_default(),
        DType::S64 => out.s64s = value.to_vec().unwrap_or_default(),
        DType::U8 => out.u8s = value.bytes().to_vec(),
        DType::U32 => out.u32s = value.to_vec().unwrap_or_default(),
        DType::U64 => out.u64s = value.to_vec().unwrap_or_default(),
        DType::F16 => out.f16s = value.bytes().to_vec(),
        DType::BF16 => out.bf16s = value.bytes().to_vec(),
        DType::F32 => out.f32s = value.to_vec().unwrap_or_default(),
        DType::F64 => out.f64s = value.to_vec().unwrap_or_default(),
    }
    out
}
