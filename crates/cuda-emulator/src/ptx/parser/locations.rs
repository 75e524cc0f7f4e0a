//! `.file` and `.loc`.

use std::collections::HashMap;

use super::{ParseError, Parser};
use crate::ptx::{LocationId, Locations, SourceLocation};

/// File, line and column.
type Place = (u32, u32, u32);

/// A `.loc` as read.
#[derive(Clone, Copy)]
struct Written {
    place: Place,
    /// The `.loc` of the call that this code replaced, by index.
    outer: Option<usize>,
    /// Its entry in the module's table, once an instruction has asked for it.
    id: Option<LocationId>,
}

/// Collects the locations of a module. An entry is made when an instruction first uses it, the
/// places that it was inlined at before it, so that the table does not depend on unused `.loc`s.
#[derive(Default)]
pub(in crate::ptx) struct Places {
    locations: Locations,
    ids: HashMap<SourceLocation, LocationId>,
    /// The `.loc`s of the function being read.
    written: Vec<Written>,
    /// The latest `.loc` with a place.
    latest: HashMap<Place, usize>,
    /// Index of the `.loc` in force.
    current: Option<usize>,
}

impl Places {
    /// A new function begins at an unknown place.
    pub(in crate::ptx) fn start_function(&mut self) {
        self.written.clear();
        self.latest.clear();
        self.current = None;
    }

    /// Code from here on is at `place`, in a function that was inlined at `inlined_at`.
    pub(in crate::ptx) fn enter(&mut self, place: Place, inlined_at: Option<Place>) {
        let outer = inlined_at.map(|outer| self.outer(outer));
        self.current = (place.1 != 0 || outer.is_some()).then(|| self.push(place, outer));
    }

    /// The call at `place` may itself be in inlined code: then its `.loc` came before.
    fn outer(&mut self, place: Place) -> usize {
        let known = self.latest.get(&place).copied();
        known.unwrap_or_else(|| self.push(place, None))
    }

    fn push(&mut self, place: Place, outer: Option<usize>) -> usize {
        self.written.push(Written { place, outer, id: None });
        self.latest.insert(place, self.written.len() - 1);
        self.written.len() - 1
    }

    /// The place of an instruction read now.
    pub(in crate::ptx) fn current(&mut self) -> LocationId {
        let mut chain = Vec::new();
        let mut next = self.current;
        while let Some(index) = next.filter(|&index| self.written[index].id.is_none()) {
            chain.push(index);
            next = self.written[index].outer;
        }
        for index in chain.into_iter().rev() {
            let Written { place: (file, line, column), outer, .. } = self.written[index];
            let inlined_at = outer.and_then(|outer| self.written[outer].id);
            self.written[index].id =
                Some(self.intern(SourceLocation { file, line, column, inlined_at }));
        }
        self.current.and_then(|index| self.written[index].id).unwrap_or(0)
    }

    fn intern(&mut self, location: SourceLocation) -> LocationId {
        let entries = &mut self.locations.entries;
        if entries.is_empty() {
            entries.push(SourceLocation::default());
        }
        *self.ids.entry(location).or_insert_with_key(|location| {
            entries.push(location.clone());
            entries.len() as LocationId - 1
        })
    }

    /// The table.
    pub(in crate::ptx) fn finish(mut self) -> Locations {
        if self.locations.entries.is_empty() {
            self.locations.entries.push(SourceLocation::default());
        }
        self.locations
    }
}

impl Parser<'_> {
    /// `.file 1 "path", timestamp, size`
    pub(super) fn file(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        let number = self.cursor.unsigned()?;
        let path = self.cursor.string()?.to_owned();
        while self.cursor.accept(b',') {
            self.cursor.number()?;
        }
        self.places.locations.files.insert(number, path);
        Ok(())
    }

    /// `.loc 1 40 7, function_name $L__info_string0+3, inlined_at 1 45 3`
    pub(super) fn loc(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        let place = self.place()?;
        let mut inlined_at = None;
        while self.cursor.accept(b',') {
            match self.cursor.word()? {
                "function_name" => self.function_name()?,
                "inlined_at" => inlined_at = Some(self.place()?),
                other => {
                    return self
                        .cursor
                        .error_before(format!("`{other}` in a `.loc` is not supported"));
                }
            }
        }
        self.places.enter(place, inlined_at);
        Ok(())
    }

    fn place(&mut self) -> Result<Place, ParseError> {
        Ok((self.cursor.unsigned()?, self.cursor.unsigned()?, self.cursor.unsigned()?))
    }

    /// A label of a debug section, which is not read.
    fn function_name(&mut self) -> Result<(), ParseError> {
        if self.cursor.peek_dotted().is_some() {
            self.cursor.advance();
        } else {
            self.cursor.word()?;
        }
        if self.cursor.accept(b'+') {
            self.cursor.unsigned()?;
        }
        Ok(())
    }
}
