//! Statements of a body and their operands.

use std::collections::HashMap;

use super::{
    ParseError, Parser,
    cursor::Cursor,
    declarations::space,
    literals::{Literal, literal, signed},
    scopes::Local,
};
use crate::ptx::{
    Body, Guard, Instruction, Linkage, Operand, RegisterId, Statement, Type, lexer::TokenKind,
};

/// The labels of each scope of the body whose brace was just read, by the index of the token after
/// the scope's brace: a label may be used before it comes, and hides one of an outer scope.
pub(super) fn labels(cursor: &Cursor) -> HashMap<usize, Vec<usize>> {
    let mut labels: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut open = vec![cursor.position()];
    let mut index = cursor.position();
    while let Some(&scope) = open.last() {
        match cursor.token(index).kind {
            TokenKind::Mark(b'{') => open.push(index + 1),
            TokenKind::Mark(b'}') => drop(open.pop()),
            TokenKind::Word if cursor.token(index + 1).kind == TokenKind::Mark(b':') => {
                labels.entry(scope).or_default().push(index);
            }
            TokenKind::End => break,
            _ => {}
        }
        index += 1;
    }
    labels
}

impl Parser<'_> {
    /// After a scope's opening brace.
    pub(super) fn enter_scope(
        &mut self,
        labels: &HashMap<usize, Vec<usize>>,
    ) -> Result<(), ParseError> {
        if !self.scopes.push() {
            return self.cursor.error_before("scopes are nested too deep");
        }
        for &index in labels.get(&self.cursor.position()).into_iter().flatten() {
            let token = self.cursor.token(index);
            self.declare_symbol(self.cursor.text_of(token), token.line)?;
        }
        Ok(())
    }

    /// Anything in a body but a scope.
    pub(super) fn statement(&mut self, body: &mut Body) -> Result<(), ParseError> {
        match self.cursor.peek().kind {
            TokenKind::Dotted => self.body_directive(body),
            TokenKind::Word => {
                if self.cursor.token(self.cursor.position() + 1).kind == TokenKind::Mark(b':') {
                    body.statements.push(self.label()?);
                    return Ok(());
                }
                let instruction = self.instruction(None)?;
                body.statements.push(Statement::Instruction(instruction));
                Ok(())
            }
            TokenKind::Mark(b'@') => {
                let guard = self.guard()?;
                let instruction = self.instruction(Some(guard))?;
                body.statements.push(Statement::Instruction(instruction));
                Ok(())
            }
            TokenKind::Mark(b';') => {
                self.cursor.advance();
                Ok(())
            }
            _ => self.cursor.unexpected("a statement"),
        }
    }

    fn body_directive(&mut self, body: &mut Body) -> Result<(), ParseError> {
        let linkage = self.linkage();
        let Some(directive) = self.cursor.peek_dotted() else {
            return self.cursor.unexpected("a declaration");
        };
        match directive {
            _ if space(directive).is_some() => body.variables.push(self.local_variable(linkage)?),
            _ if linkage != Linkage::Internal => return self.cursor.unexpected("a variable"),
            ".reg" => self.register_declaration()?,
            ".loc" => self.loc()?,
            ".pragma" => self.pragma()?,
            _ => return self.cursor.unsupported("directive"),
        }
        Ok(())
    }

    fn label(&mut self) -> Result<Statement, ParseError> {
        let name = self.symbol_name()?;
        self.cursor.expect(b':')?;
        match self.cursor.peek_dotted() {
            Some(".branchtargets") => {
                self.cursor.advance();
                let mut targets = vec![self.symbol_name()?];
                while self.cursor.accept(b',') {
                    targets.push(self.symbol_name()?);
                }
                self.cursor.expect(b';')?;
                Ok(Statement::BranchTargets { name, targets })
            }
            Some(".callprototype" | ".calltargets") => self.cursor.unsupported("directive"),
            _ => Ok(Statement::Label(name)),
        }
    }

    /// A label or variable by its name in the function.
    fn symbol_name(&mut self) -> Result<String, ParseError> {
        let name = self.cursor.word()?;
        match self.scopes.find(name) {
            Some(Local::Symbol(unique)) => Ok(unique.clone()),
            _ => self.cursor.error_before(format!("`{name}` is no label")),
        }
    }

    fn guard(&mut self) -> Result<Guard, ParseError> {
        self.cursor.advance();
        let negated = self.cursor.accept(b'!');
        Ok(Guard { register: self.predicate()?, negated })
    }

    fn predicate(&mut self) -> Result<RegisterId, ParseError> {
        let name = self.cursor.word()?;
        match self.scopes.find(name) {
            Some(&Local::Register(id)) if self.registers[id as usize].ty == Type::Pred => Ok(id),
            _ => self.cursor.error_before(format!("`{name}` is no predicate register")),
        }
    }

    fn instruction(&mut self, guard: Option<Guard>) -> Result<Instruction, ParseError> {
        let ptx_line = self.cursor.line();
        let base = self.cursor.word()?;
        if !base.starts_with(|c: char| c.is_ascii_lowercase()) {
            return self.cursor.error_before(format!("`{base}` is no instruction"));
        }
        let mut opcode = base.to_owned();
        while let Some(modifier) = self.cursor.peek_dotted() {
            opcode.push_str(modifier);
            self.cursor.advance();
        }
        let mut operands = Vec::new();
        if !self.cursor.at(b';') {
            operands.push(self.operand(base)?);
            while self.cursor.accept(b',') {
                operands.push(self.operand(base)?);
            }
        }
        self.cursor.expect(b';')?;
        let (used_bytes, location) = (self.used_bytes.take(), self.places.current());
        Ok(Instruction { guard, opcode, operands, used_bytes, location, ptx_line })
    }

    fn operand(&mut self, base: &str) -> Result<Operand, ParseError> {
        match self.cursor.peek().kind {
            TokenKind::Mark(b'[') => self.memory_operand(),
            TokenKind::Mark(b'{') => Ok(Operand::Vector(self.operand_list(b'}')?)),
            TokenKind::Mark(b'(') if base == "call" => Ok(Operand::List(self.operand_list(b')')?)),
            TokenKind::Mark(b'!') => {
                self.cursor.advance();
                Ok(Operand::NotRegister(self.predicate()?))
            }
            _ => {
                let first = self.scalar()?;
                if !self.cursor.accept(b'|') {
                    return Ok(first);
                }
                let second = self.scalar()?;
                if [&first, &second]
                    .iter()
                    .all(|half| matches!(half, Operand::Register(_) | Operand::Sink))
                {
                    return Ok(Operand::Pair(Box::new(first), Box::new(second)));
                }
                self.cursor.error_before("`|` stands between two registers")
            }
        }
    }

    /// What stands between brackets, up to the closing one.
    fn operand_list(&mut self, close: u8) -> Result<Vec<Operand>, ParseError> {
        self.cursor.advance();
        let mut list = Vec::new();
        if self.cursor.accept(close) {
            return Ok(list);
        }
        loop {
            list.push(self.scalar()?);
            if !self.cursor.accept(b',') {
                self.cursor.expect(close)?;
                return Ok(list);
            }
        }
    }

    /// `[base+offset]`
    fn memory_operand(&mut self) -> Result<Operand, ParseError> {
        self.cursor.advance();
        let base = match self.cursor.peek().kind {
            TokenKind::Word => self.named()?,
            _ => self.number()?,
        };
        if !matches!(base, Operand::Register(_) | Operand::Symbol { .. } | Operand::Integer(_)) {
            return self.cursor.error_before("no address");
        }
        let offset = self.offset()?.unwrap_or(0);
        self.cursor.expect(b']')?;
        Ok(Operand::Address { base: Box::new(base), offset })
    }

    /// `+4`, `+-4` or `-4`, if there is one.
    pub(super) fn offset(&mut self) -> Result<Option<i64>, ParseError> {
        if !self.cursor.accept(b'+') && !self.cursor.at(b'-') {
            return Ok(None);
        }
        match self.number()? {
            Operand::Integer(offset) => Ok(Some(offset)),
            _ => self.cursor.error_before("an offset is an integer"),
        }
    }

    /// An operand without brackets.
    fn scalar(&mut self) -> Result<Operand, ParseError> {
        if self.cursor.peek().kind != TokenKind::Word {
            return self.number();
        }
        match self.named()? {
            Operand::Symbol { name, .. } => {
                Ok(Operand::Symbol { name, offset: self.offset()?.unwrap_or(0) })
            }
            other => Ok(other),
        }
    }

    fn number(&mut self) -> Result<Operand, ParseError> {
        let negative = self.cursor.accept(b'-');
        if self.cursor.peek().kind != TokenKind::Number {
            return self.cursor.unexpected("an operand");
        }
        let written = self.cursor.number()?;
        let operand = match literal(written) {
            Some(Literal::Integer(value)) => signed(value, negative).map(Operand::Integer),
            Some(Literal::Float32(bits)) => {
                Some(Operand::Float32(bits ^ u32::from(negative) << 31))
            }
            Some(Literal::Float64(bits)) => {
                Some(Operand::Float64(bits ^ u64::from(negative) << 63))
            }
            None => None,
        };
        operand.map_or_else(
            || self.cursor.error_before(format!("`{written}` is no number of 64 bits")),
            Ok,
        )
    }

    /// What a word means as an operand; a symbol without its offset.
    fn named(&mut self) -> Result<Operand, ParseError> {
        let token = self.cursor.peek();
        let name = self.cursor.word()?;
        match self.scopes.find(name) {
            Some(&Local::Register(id)) => return Ok(Operand::Register(id)),
            Some(Local::Symbol(unique)) => {
                return Ok(Operand::Symbol { name: unique.clone(), offset: 0 });
            }
            None => {}
        }
        if name == "_" {
            return Ok(Operand::Sink);
        }
        if name == "WARP_SZ" {
            return Ok(Operand::Special(name.to_owned()));
        }
        if let Some(special) = name.strip_prefix('%') {
            let component = self.cursor.peek();
            let adjacent = component.start == token.end && component.kind == TokenKind::Dotted;
            if adjacent && matches!(self.cursor.text_of(component), ".x" | ".y" | ".z" | ".w") {
                self.cursor.advance();
                return Ok(Operand::Special(format!(
                    "{special}{}",
                    self.cursor.text_of(component)
                )));
            }
            return Ok(Operand::Special(special.to_owned()));
        }
        if self.globals.contains_key(name) {
            return Ok(Operand::Symbol { name: name.to_owned(), offset: 0 });
        }
        self.cursor.error_before(format!("`{name}` is not declared"))
    }
}
