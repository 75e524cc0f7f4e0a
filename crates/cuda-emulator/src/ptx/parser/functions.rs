//! Kernels and device functions.

use super::{
    Global, ParseError, Parser, declarations::declared_twice, instructions, scopes::Local,
};
use crate::ptx::{Body, Dim3, Function, FunctionKind, Linkage, Space, Variable, lexer::TokenKind};

impl Parser<'_> {
    /// From `.entry` or `.func` to the end of the body or the semicolon of a declaration.
    pub(super) fn function(
        &mut self,
        kind: FunctionKind,
        linkage: Linkage,
    ) -> Result<(), ParseError> {
        let ptx_line = self.cursor.line();
        self.cursor.advance();
        self.start_function();
        let returns = match kind {
            FunctionKind::Func => self.parameters()?,
            FunctionKind::Entry => Vec::new(),
        };
        let name = self.cursor.word()?.to_owned();
        let params = self.parameters()?;
        let mut function = Function {
            kind,
            linkage,
            name,
            returns,
            params,
            max_threads: None,
            required_threads: None,
            min_blocks_per_sm: None,
            max_registers: None,
            no_return: false,
            body: None,
            ptx_line,
        };
        self.function_directives(&mut function)?;
        let defined = !self.cursor.accept(b';');
        // Before the body is read: the function may call itself.
        let first = self.declare_function(&function, defined)?;
        if defined {
            function.body = Some(self.body()?);
        }
        if defined || first {
            self.functions.push(function);
        }
        Ok(())
    }

    fn start_function(&mut self) {
        self.places.start_function();
        self.scopes.start_function();
        self.scopes.push();
        self.registers.clear();
    }

    /// A list in parentheses, if there is one.
    fn parameters(&mut self) -> Result<Vec<Variable>, ParseError> {
        let mut list = Vec::new();
        if !self.cursor.accept(b'(') || self.cursor.accept(b')') {
            return Ok(list);
        }
        loop {
            let line = self.cursor.line();
            let variable = self.variable(Linkage::Internal)?;
            if variable.space != Space::Param || !variable.initial.is_empty() {
                return self.cursor.error_before(format!("`{}` is no parameter", variable.name));
            }
            // Not through `declare_symbol`: parameters keep their names, whatever else has them.
            self.scopes.unique(&variable.name, |_| false);
            self.declare(&variable.name, Local::Symbol(variable.name.clone()), line)?;
            list.push(variable);
            if !self.cursor.accept(b',') {
                self.cursor.expect(b')')?;
                return Ok(list);
            }
        }
    }

    fn function_directives(&mut self, function: &mut Function) -> Result<(), ParseError> {
        while let Some(directive) = self.cursor.peek_dotted() {
            if directive == ".pragma" {
                self.pragma()?;
                continue;
            }
            if !matches!(
                directive,
                ".maxntid" | ".reqntid" | ".minnctapersm" | ".maxnreg" | ".noreturn"
            ) {
                return self.cursor.unsupported("directive");
            }
            self.cursor.advance();
            match directive {
                ".maxntid" => function.max_threads = Some(self.dim3()?),
                ".reqntid" => function.required_threads = Some(self.dim3()?),
                ".minnctapersm" => function.min_blocks_per_sm = Some(self.cursor.unsigned()?),
                ".maxnreg" => function.max_registers = Some(self.cursor.unsigned()?),
                _ => function.no_return = true,
            }
        }
        Ok(())
    }

    fn dim3(&mut self) -> Result<Dim3, ParseError> {
        let mut dim = [self.cursor.unsigned()?, 1, 1];
        for size in &mut dim[1..] {
            if !self.cursor.accept(b',') {
                break;
            }
            *size = self.cursor.unsigned()?;
        }
        Ok(dim)
    }

    /// Makes the name known and says whether it is new.
    fn declare_function(&mut self, function: &Function, defined: bool) -> Result<bool, ParseError> {
        let known = self.globals.get(&function.name).copied();
        let earlier = match known {
            None => false,
            Some(Global::Function { defined: earlier }) if !(earlier && defined) => earlier,
            Some(_) => return Err(declared_twice(function.ptx_line, &function.name)),
        };
        let global = Global::Function { defined: defined || earlier };
        self.globals.insert(function.name.clone(), global);
        Ok(known.is_none())
    }

    fn body(&mut self) -> Result<Body, ParseError> {
        self.cursor.expect(b'{')?;
        let labels = instructions::labels(&self.cursor);
        let mut body = Body::default();
        self.enter_scope(&labels)?;
        loop {
            match self.cursor.peek().kind {
                TokenKind::Mark(b'{') => {
                    self.cursor.advance();
                    self.enter_scope(&labels)?;
                }
                TokenKind::Mark(b'}') => {
                    self.cursor.advance();
                    if !self.scopes.pop() {
                        body.registers = std::mem::take(&mut self.registers);
                        return Ok(body);
                    }
                }
                _ => self.statement(&mut body)?,
            }
        }
    }
}
