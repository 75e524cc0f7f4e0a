//! Initialisers of variables.

use super::{
    ParseError, Parser,
    literals::{Literal, literal, signed},
};
use crate::ptx::{Initial, Type};

/// Elements of an initialiser, zeros between the rows of a matrix included.
const MAX_ELEMENTS: usize = 1 << 20;

impl Parser<'_> {
    /// What follows `=`, flattened.
    pub(super) fn initialiser(
        &mut self,
        ty: Type,
        dimensions: &[usize],
    ) -> Result<Vec<Initial>, ParseError> {
        let mut elements = Vec::new();
        match dimensions.split_first() {
            None => elements.push(self.element(ty)?),
            Some((&outer, inner)) => self.rows(ty, outer, inner, &mut elements)?,
        }
        Ok(elements)
    }

    /// `{ ... }` of at most `count` rows (any number where 0), each of the shape `inner`. Rows may be
    /// written without braces of their own. Recurses no deeper than there are dimensions.
    fn rows(
        &mut self,
        ty: Type,
        count: usize,
        inner: &[usize],
        elements: &mut Vec<Initial>,
    ) -> Result<(), ParseError> {
        let start = elements.len();
        let row: usize = inner.iter().product();
        let capacity = if count == 0 { usize::MAX } else { count * row };
        self.cursor.expect(b'{')?;
        while !self.cursor.at(b'}') {
            match inner.split_first() {
                Some((&next, rest)) if self.cursor.at(b'{') => {
                    let end = (elements.len() - start).next_multiple_of(row) + start;
                    self.pad(elements, end)?;
                    self.rows(ty, next, rest, elements)?;
                    self.pad(elements, end + row)?;
                }
                _ => elements.push(self.element(ty)?),
            }
            if elements.len() - start > capacity {
                return self.cursor.error_before("more initial elements than the array has");
            }
            if !self.cursor.accept(b',') {
                break;
            }
        }
        self.cursor.expect(b'}')
    }

    fn pad(&self, elements: &mut Vec<Initial>, length: usize) -> Result<(), ParseError> {
        if length > MAX_ELEMENTS {
            return self.cursor.error_before("initialiser with too many elements");
        }
        elements.resize(length, Initial::Bits(0));
        Ok(())
    }

    fn element(&mut self, ty: Type) -> Result<Initial, ParseError> {
        if self.cursor.peek_word().is_some() { self.address(ty) } else { self.bits(ty) }
    }

    /// `symbol`, `symbol+8`, `generic(symbol)`, `generic(symbol)+8`.
    fn address(&mut self, ty: Type) -> Result<Initial, ParseError> {
        let mut name = self.cursor.word()?;
        let generic = name == "generic" && self.cursor.accept(b'(');
        if generic {
            name = self.cursor.word()?;
            self.cursor.expect(b')')?;
        }
        if !self.globals.contains_key(name) {
            return self.cursor.error_before(format!("`{name}` is not declared"));
        }
        if !matches!(ty, Type::B32 | Type::B64 | Type::U32 | Type::U64 | Type::S32 | Type::S64) {
            return self.cursor.error_before(format!("address of `{name}` as `.{}`", ty.name()));
        }
        let symbol = name.to_owned();
        Ok(Initial::Address { symbol, offset: self.offset()?.unwrap_or(0), generic })
    }

    fn bits(&mut self, ty: Type) -> Result<Initial, ParseError> {
        let negative = self.cursor.accept(b'-');
        let written = self.cursor.number()?;
        if self.cursor.at(b'(') {
            return self.cursor.error("a masked address is not supported");
        }
        match literal(written).and_then(|value| element_bits(ty, value, negative)) {
            Some(bits) => Ok(Initial::Bits(bits)),
            None => self.cursor.error_before(format!("`{written}` is no `.{}`", ty.name())),
        }
    }
}

/// The bits of a literal as an element of `ty`; `None` where it does not fit.
fn element_bits(ty: Type, value: Literal, negative: bool) -> Option<u64> {
    match (ty, value) {
        (Type::F64, Literal::Float64(bits)) => Some(bits ^ u64::from(negative) << 63),
        (Type::F32, Literal::Float64(bits)) => {
            let value = f64::from_bits(bits) as f32;
            Some(u64::from(value.to_bits() ^ u32::from(negative) << 31))
        }
        (Type::F32, Literal::Float32(bits)) => Some(u64::from(bits ^ u32::from(negative) << 31)),
        (Type::B32, Literal::Float32(bits)) if !negative => Some(u64::from(bits)),
        (Type::B64, Literal::Float64(bits)) if !negative => Some(bits),
        (
            Type::Pred
            | Type::B128
            | Type::F16
            | Type::F16x2
            | Type::BF16
            | Type::BF16x2
            | Type::F32
            | Type::F64,
            _,
        )
        | (_, Literal::Float32(_) | Literal::Float64(_)) => None,
        (_, Literal::Integer(magnitude)) => {
            let value = signed(magnitude, negative)?;
            let width = ty.bytes() * 8;
            if width == 64 {
                return Some(value as u64);
            }
            let fits = if negative { value >= -(1 << (width - 1)) } else { magnitude < 1 << width };
            fits.then_some(value as u64 & ((1 << width) - 1))
        }
    }
}
