//! Variables and registers.

use super::{Global, ParseError, Parser, scopes::Local};
use crate::ptx::{Linkage, Register, RegisterId, Space, Type, Variable};

/// More registers than any module has; a range of few letters must not exhaust the memory.
const MAX_REGISTERS: usize = 1 << 20;
/// More bytes than any variable has.
const MAX_VARIABLE_BYTES: usize = 1 << 40;
/// Dimensions of an array: initialisers nest as deep.
const MAX_DIMENSIONS: usize = 8;

pub(super) fn space(directive: &str) -> Option<Space> {
    Some(match directive {
        ".param" => Space::Param,
        ".local" => Space::Local,
        ".shared" => Space::Shared,
        ".global" => Space::Global,
        ".const" => Space::Const,
        _ => return None,
    })
}

impl Parser<'_> {
    pub(super) fn module_variable(&mut self, linkage: Linkage) -> Result<(), ParseError> {
        let line = self.cursor.line();
        let variable = self.variable(linkage)?;
        self.cursor.expect(b';')?;
        match self.globals.get(&variable.name) {
            None => {
                let global = Global::Variable(self.variables.len());
                self.globals.insert(variable.name.clone(), global);
                self.variables.push(variable);
            }
            Some(&Global::Variable(index)) if self.variables[index].linkage == Linkage::Extern => {
                self.variables[index] = variable;
            }
            Some(Global::Variable(_)) if variable.linkage == Linkage::Extern => {}
            Some(_) => return Err(declared_twice(line, &variable.name)),
        }
        Ok(())
    }

    /// A variable of a function's body.
    pub(super) fn local_variable(&mut self, linkage: Linkage) -> Result<Variable, ParseError> {
        let line = self.cursor.line();
        let mut variable = self.variable(linkage)?;
        self.cursor.expect(b';')?;
        variable.name = self.declare_symbol(&variable.name, line)?;
        Ok(variable)
    }

    /// From the state space to the initialiser.
    pub(super) fn variable(&mut self, linkage: Linkage) -> Result<Variable, ParseError> {
        let Some(space) = self.cursor.peek_dotted().and_then(space) else {
            return self.cursor.unexpected("a state space");
        };
        self.cursor.advance();
        let (ty, align) = self.type_and_alignment()?;
        let align = align.unwrap_or(ty.bytes());
        let name = self.cursor.word()?.to_owned();
        let dimensions = self.dimensions()?;
        // An open dimension counts as one row.
        let bytes = dimensions.iter().try_fold(ty.bytes(), |n, &d| n.checked_mul(d.max(1)));
        if bytes.is_none_or(|bytes| bytes > MAX_VARIABLE_BYTES) {
            return self.cursor.error_before(format!("`{name}` is too large"));
        }
        let mut length = (!dimensions.is_empty()).then(|| dimensions.iter().product());
        let mut initial = Vec::new();
        if self.cursor.accept(b'=') {
            initial = self.initialiser(ty, &dimensions)?;
            if length == Some(0) {
                let row: usize = dimensions[1..].iter().product();
                length = Some(initial.len().next_multiple_of(row));
            }
        }
        Ok(Variable { space, linkage, align, ty, name, length, initial })
    }

    /// `.align 8 .b8`, `.u64 .ptr .global .align 16`, in any order.
    fn type_and_alignment(&mut self) -> Result<(Type, Option<usize>), ParseError> {
        let (mut ty, mut align, mut pointer) = (None, None, false);
        while let Some(directive) = self.cursor.peek_dotted() {
            match directive {
                ".align" => {
                    self.cursor.advance();
                    let bytes = self.alignment()?;
                    // What a pointer points to is aligned so, not the parameter.
                    if !pointer {
                        align = Some(bytes);
                    }
                }
                ".ptr" => {
                    self.cursor.advance();
                    pointer = true;
                }
                _ if pointer && space(directive).is_some() => self.cursor.advance(),
                _ => match Type::parse(&directive[1..]) {
                    Some(Type::Pred) | None => return self.cursor.unsupported("attribute"),
                    Some(_) if ty.is_some() => return self.cursor.unexpected("a name"),
                    Some(found) => {
                        self.cursor.advance();
                        ty = Some(found);
                    }
                },
            }
        }
        match ty {
            Some(ty) => Ok((ty, align)),
            None => self.cursor.unexpected("a type"),
        }
    }

    fn alignment(&mut self) -> Result<usize, ParseError> {
        let bytes = self.cursor.unsigned()?;
        if bytes.is_power_of_two() {
            Ok(bytes as usize)
        } else {
            self.cursor.error_before("alignment is no power of two")
        }
    }

    /// `[4][8]`, the first of which may be left open.
    fn dimensions(&mut self) -> Result<Vec<usize>, ParseError> {
        let mut dimensions = Vec::new();
        while self.cursor.accept(b'[') {
            if dimensions.len() == MAX_DIMENSIONS {
                return self.cursor.error("too many dimensions");
            }
            let open = dimensions.is_empty() && self.cursor.at(b']');
            dimensions.push(if open { 0 } else { self.cursor.unsigned()? as usize });
            self.cursor.expect(b']')?;
            if dimensions.last() == Some(&0) && !open {
                return self.cursor.error_before("array of no elements");
            }
        }
        Ok(dimensions)
    }

    /// `.reg .b32 %r<9>, x;`
    pub(super) fn register_declaration(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        let Some(ty) = self.cursor.peek_dotted().and_then(|name| Type::parse(&name[1..])) else {
            return self.cursor.unexpected("a register type");
        };
        self.cursor.advance();
        loop {
            let line = self.cursor.line();
            let name = self.cursor.word()?;
            if self.cursor.accept(b'<') {
                let count = self.cursor.unsigned()?;
                self.cursor.expect(b'>')?;
                for index in 0..count {
                    self.declare_register(&format!("{name}{index}"), ty, line)?;
                }
            } else {
                self.declare_register(name, ty, line)?;
            }
            if !self.cursor.accept(b',') {
                return self.cursor.expect(b';');
            }
        }
    }

    fn declare_register(&mut self, name: &str, ty: Type, line: u32) -> Result<(), ParseError> {
        if self.register_count == MAX_REGISTERS {
            return Err(ParseError { line, message: "too many registers".into() });
        }
        self.register_count += 1;
        let unique = self.unique_name(name);
        let id = self.registers.len() as RegisterId;
        self.registers.push(Register { name: unique, ty });
        self.declare(name, Local::Register(id), line)
    }

    /// Declares a variable or label in the innermost scope and returns its name in the function.
    pub(super) fn declare_symbol(&mut self, name: &str, line: u32) -> Result<String, ParseError> {
        let unique = self.unique_name(name);
        self.declare(name, Local::Symbol(unique.clone()), line)?;
        Ok(unique)
    }

    fn unique_name(&mut self, name: &str) -> String {
        self.scopes.unique(name, |unique| self.globals.contains_key(unique))
    }

    pub(super) fn declare(
        &mut self,
        name: &str,
        local: Local,
        line: u32,
    ) -> Result<(), ParseError> {
        if name == "_" {
            return Err(ParseError { line, message: "`_` cannot be declared".into() });
        }
        if self.scopes.declare(name, local) { Ok(()) } else { Err(declared_twice(line, name)) }
    }
}

pub(super) fn declared_twice(line: u32, name: &str) -> ParseError {
    ParseError { line, message: format!("`{name}` is declared twice") }
}
