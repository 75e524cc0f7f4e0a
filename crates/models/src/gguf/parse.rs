//! The header of a GGUF file: metadata and tensor descriptions.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. The bytes are untrusted: each length is
//! checked against what is left of the file before anything is allocated or skipped.

use std::{collections::BTreeMap, ops::Range};

use super::{
    ggml_type::GgmlType,
    value::{Array, Value, ValueType},
};

const MAGIC: &[u8; 4] = b"GGUF";
/// Longest metadata key of the specification.
const MAX_KEY_BYTES: usize = 65_535;
/// `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: usize = 32;

/// Everything in front of the tensor data.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, Value>,
    /// In the file's order.
    pub(crate) tensors: Vec<TensorEntry>,
}

/// One tensor description.
#[derive(Debug)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    pub(crate) ty: GgmlType,
    /// Row-major shape: the reverse of ggml's order. Never empty, no zero, and the last dimension is whole blocks.
    pub(crate) shape: Vec<usize>,
    /// Byte range in the file, checked against its size and the other tensors.
    pub(crate) range: Range<usize>,
}

/// What is wrong with a file, without its path.
type Parsed<T> = Result<T, String>;

/// Reads the header of the whole file `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<Header> {
    let mut cursor = Cursor::new(bytes);
    if cursor.take(4, "magic")? != MAGIC {
        return Err("not a GGUF file (the first four bytes are not \"GGUF\")".into());
    }
    let version = cursor.u32("version")?;
    if !(2..=3).contains(&version) {
        let hint = match version.swap_bytes() {
            2 | 3 => "a big-endian file",
            _ => "unknown version",
        };
        return Err(format!(
            "GGUF version {version:#x}: {hint}; little-endian versions 2 and 3 are supported"
        ));
    }
    let tensor_count = cursor.u64("tensor count")?;
    let metadata_count = cursor.u64("metadata count")?;
    let metadata = metadata(&mut cursor, metadata_count)?;
    let tensors = tensors(&mut cursor, tensor_count, alignment(&metadata)?)?;
    Ok(Header { metadata, tensors })
}

fn metadata(cursor: &mut Cursor, count: u64) -> Parsed<BTreeMap<String, Value>> {
    let mut metadata = BTreeMap::new();
    for i in 0..count {
        let key = cursor
            .string("metadata key")
            .map_err(|e| format!("metadata entry {i} of {count}: {e}"))?;
        if key.len() > MAX_KEY_BYTES {
            return Err(format!("metadata entry {i}: a key of {} bytes", key.len()));
        }
        let value = cursor.value().map_err(|e| format!("metadata `{key}`: {e}"))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(format!("metadata `{key}` occurs twice"));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Parsed<usize> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::Uint(n)) if n.is_power_of_two() && n <= 1 << 20 => Ok(n as usize),
        Some(other) => {
            Err(format!("metadata `general.alignment` is {other:?}, not a power of two"))
        }
    }
}

fn tensors(cursor: &mut Cursor, count: u64, alignment: usize) -> Parsed<Vec<TensorEntry>> {
    let mut tensors = Vec::new();
    for i in 0..count {
        let name =
            cursor.string("tensor name").map_err(|e| format!("tensor {i} of {count}: {e}"))?;
        let tensor = tensor(cursor, name).map_err(|e| format!("tensor `{name}`: {e}"))?;
        tensors.push(tensor);
    }
    let data_start = cursor.at.next_multiple_of(alignment);
    for tensor in &mut tensors {
        place(tensor, data_start, alignment, cursor.bytes.len())
            .map_err(|e| format!("tensor `{}`: {e}", tensor.name))?;
    }
    check_overlaps(&tensors)?;
    Ok(tensors)
}

/// Reads one description; `range` is still relative to the data section.
fn tensor(cursor: &mut Cursor, name: &str) -> Parsed<TensorEntry> {
    let rank = cursor.u32("number of dimensions")?;
    if !(1..=MAX_DIMENSIONS).contains(&rank) {
        return Err(format!("{rank} dimensions; 1 to {MAX_DIMENSIONS} are possible"));
    }
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        let dimension = cursor.u64("dimension")?;
        shape.push(usize::try_from(dimension).map_err(|_| format!("a dimension of {dimension}"))?);
    }
    shape.reverse();
    let id = cursor.u32("type")?;
    let ty = GgmlType::from_id(id).ok_or_else(|| {
        format!("unknown ggml type {id}; supported are {}", GgmlType::supported_names())
    })?;
    let columns = shape[shape.len() - 1];
    if shape.contains(&0) || !columns.is_multiple_of(ty.block) {
        return Err(format!(
            "shape {shape:?} does not hold whole blocks of {} ({})",
            ty.block, ty.name
        ));
    }
    let bytes = shape
        .iter()
        .try_fold(1_usize, |n, &d| n.checked_mul(d))
        .and_then(|n| (n / ty.block).checked_mul(ty.block_bytes))
        .ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let offset = cursor.u64("offset")?;
    let end = usize::try_from(offset).ok().and_then(|start| start.checked_add(bytes));
    let end = end.ok_or_else(|| format!("offset {offset} is too large"))?;
    Ok(TensorEntry { name: name.to_owned(), ty, shape, range: end - bytes..end })
}

/// Turns the relative range into one in the file.
fn place(tensor: &mut TensorEntry, data_start: usize, alignment: usize, len: usize) -> Parsed<()> {
    let Range { start, end } = tensor.range;
    if !start.is_multiple_of(alignment) {
        return Err(format!("offset {start} is not a multiple of the alignment {alignment}"));
    }
    match end.checked_add(data_start) {
        Some(end) if end <= len => {
            tensor.range = start + data_start..end;
            Ok(())
        }
        _ => Err(format!(
            "needs bytes up to {end} of the data section, but the file ends at {}; is the download complete?",
            len.saturating_sub(data_start)
        )),
    }
}

fn check_overlaps(tensors: &[TensorEntry]) -> Parsed<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            return Err(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name));
        }
    }
    let mut names: Vec<_> = tensors.iter().map(|tensor| &tensor.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("tensor `{}` occurs twice", pair[0])),
        None => Ok(()),
    }
}

/// A read position whose every step is checked.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, len: usize, what: &str) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or_else(|| {
            format!("the file ends inside its {what} (at byte {}, {len} bytes wanted)", self.at)
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let bytes = self.take(N, what)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length-prefixed UTF-8 string.
    pub(crate) fn string(&mut self, what: &str) -> Parsed<&'a str> {
        let start = self.at;
        let len = self.u64(what)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = self.take(len, what)?;
        str::from_utf8(bytes).map_err(|e| format!("the {what} at byte {start} is not UTF-8: {e}"))
    }

    fn value_type(&mut self) -> Parsed<ValueType> {
        let id = self.u32("value type")?;
        ValueType::from_id(id).ok_or_else(|| format!("unknown value type {id}"))
    }

    fn value(&mut self) -> Parsed<Value> {
        match self.value_type()? {
            ValueType::Array => self.skip_array().map(Value::Array),
            scalar => self.scalar(scalar),
        }
    }

    /// One value that is not an array.
    pub(crate) fn scalar(&mut self, ty: ValueType) -> Parsed<Value> {
        const WHAT: &str = "metadata value";
        Ok(match ty {
            ValueType::U8 => Value::Uint(u8::from_le_bytes(self.array(WHAT)?).into()),
            ValueType::I8 => Value::Int(i8::from_le_bytes(self.array(WHAT)?).into()),
            ValueType::U16 => Value::Uint(u16::from_le_bytes(self.array(WHAT)?).into()),
            ValueType::I16 => Value::Int(i16::from_le_bytes(self.array(WHAT)?).into()),
            ValueType::U32 => Value::Uint(self.u32(WHAT)?.into()),
            ValueType::I32 => Value::Int(i32::from_le_bytes(self.array(WHAT)?).into()),
            ValueType::F32 => Value::Float(f32::from_le_bytes(self.array(WHAT)?).into()),
            ValueType::Bool => Value::Bool(self.array::<1>(WHAT)?[0] != 0),
            ValueType::String => Value::String(self.string(WHAT)?.to_owned()),
            ValueType::U64 => Value::Uint(self.u64(WHAT)?),
            ValueType::I64 => Value::Int(i64::from_le_bytes(self.array(WHAT)?)),
            ValueType::F64 => Value::Float(f64::from_le_bytes(self.array(WHAT)?)),
            ValueType::Array => return Err("an array inside an array is not supported".into()),
        })
    }

    fn skip_array(&mut self) -> Parsed<Array> {
        let element = self.value_type()?;
        let count = self.u64("array length")?;
        let left = self.bytes.len() - self.at;
        let len = usize::try_from(count)
            .ok()
            .filter(|&len| len <= left / element.min_bytes())
            .ok_or_else(|| format!("an array of {count} elements in {left} bytes"))?;
        let start = self.at;
        match element {
            ValueType::Array => return Err("an array inside an array is not supported".into()),
            ValueType::String => {
                for _ in 0..len {
                    self.string("array element")?;
                }
            }
            fixed => {
                self.take(len * fixed.min_bytes(), "array")?;
            }
        }
        Ok(Array { element, len, range: start..self.at })
    }
}
