//! Recursive descent over the tokens. Nothing recurses on nested text: scopes are a stack, and
//! operands nest one level.

mod cursor;
mod declarations;
mod directives;
mod functions;
mod initial;
mod instructions;
mod literals;
mod locations;
mod scopes;

use std::collections::HashMap;

use self::{cursor::Cursor, locations::Places, scopes::Scopes};
use super::{Function, FunctionKind, Linkage, Module, Register, Variable, lexer};

/// Why text is not a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What was found and what was expected.
    pub message: String,
}

/// Parses a module.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let mut parser = Parser {
        cursor: Cursor::new(text, lexer::tokens(text)?),
        globals: HashMap::new(),
        variables: Vec::new(),
        functions: Vec::new(),
        places: Places::default(),
        registers: Vec::new(),
        register_count: 0,
        scopes: Scopes::default(),
        used_bytes: None,
    };
    parser.module()
}

/// What a name at module scope means.
#[derive(Clone, Copy)]
enum Global {
    /// Index into the parser's list.
    Variable(usize),
    Function {
        defined: bool,
    },
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    globals: HashMap<String, Global>,
    variables: Vec<Variable>,
    /// Declarations and definitions as they come.
    functions: Vec<Function>,
    places: Places,
    /// Registers of the function being read.
    registers: Vec<Register>,
    /// Registers of all functions so far: a range of few letters can declare many.
    register_count: usize,
    scopes: Scopes,
    /// Of the instruction that comes next.
    used_bytes: Option<u16>,
}

impl Parser<'_> {
    fn module(&mut self) -> Result<Module, ParseError> {
        let version = self.version()?;
        let target = self.target()?;
        let address_size = self.address_size()?;
        while !self.cursor.at_end() {
            self.module_item()?;
        }
        Ok(Module {
            version,
            target,
            address_size,
            variables: std::mem::take(&mut self.variables),
            functions: self.take_functions(),
            locations: std::mem::take(&mut self.places).finish(),
        })
    }

    /// Functions without a definition, then definitions.
    fn take_functions(&mut self) -> Vec<Function> {
        let mut functions = std::mem::take(&mut self.functions);
        functions.retain(|f| {
            let defined = matches!(self.globals[&f.name], Global::Function { defined: true });
            f.body.is_some() || !defined
        });
        functions.sort_by_key(|f| f.body.is_some());
        functions
    }

    fn version(&mut self) -> Result<(u32, u32), ParseError> {
        self.cursor.expect_dotted(".version")?;
        let written = self.cursor.number()?;
        let parts = written.split_once('.');
        parts
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .map_or_else(|| self.cursor.error_before("`.version` is not `major.minor`"), Ok)
    }

    fn target(&mut self) -> Result<String, ParseError> {
        self.cursor.expect_dotted(".target")?;
        let mut target = self.cursor.word()?.to_owned();
        while self.cursor.accept(b',') {
            target.push_str(", ");
            target.push_str(self.cursor.word()?);
        }
        Ok(target)
    }

    fn address_size(&mut self) -> Result<u32, ParseError> {
        self.cursor.expect_dotted(".address_size")?;
        match self.cursor.unsigned()? {
            size @ (32 | 64) => Ok(size),
            _ => self.cursor.error_before("`.address_size` is neither 32 nor 64"),
        }
    }

    fn module_item(&mut self) -> Result<(), ParseError> {
        let linkage = self.linkage();
        let Some(directive) = self.cursor.peek_dotted() else {
            return self.cursor.unexpected("a directive");
        };
        match directive {
            ".entry" => self.function(FunctionKind::Entry, linkage),
            ".func" => self.function(FunctionKind::Func, linkage),
            ".global" | ".const" | ".shared" => self.module_variable(linkage),
            _ if linkage != Linkage::Internal => self.cursor.unexpected("a declaration"),
            ".file" => self.file(),
            ".section" => self.skip_section(),
            ".pragma" => self.pragma(),
            _ => self.cursor.unsupported("directive"),
        }
    }

    fn linkage(&mut self) -> Linkage {
        let linkage = match self.cursor.peek_dotted() {
            Some(".visible") => Linkage::Visible,
            Some(".extern") => Linkage::Extern,
            Some(".weak") => Linkage::Weak,
            Some(".common") => Linkage::Common,
            _ => return Linkage::Internal,
        };
        self.cursor.advance();
        linkage
    }
}
