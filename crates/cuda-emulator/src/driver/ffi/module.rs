//! `cuModule…` and `cuFunc…`.

use crate::driver::{
    error::{Code, Status},
    ffi::{
        api,
        pointers::{Buffer, In, Out, Text},
    },
    modules::Image,
    state::State,
};

/// The PTX text of an image. Machine code for a GPU cannot be run.
fn text(s: &mut State, image: Text) -> Status<String> {
    match Image::of(image.magic()?) {
        Image::Text => image.get().map_err(|_| Code::INVALID_IMAGE),
        binary => {
            let kind = if binary == Image::Elf { "a cubin" } else { "a fat binary" };
            s.journal.warn(format!("cannot load {kind}; only PTX text is emulated"));
            Err(Code::NO_BINARY_FOR_GPU)
        }
    }
}

/// The buffer for errors among the options of `cuModuleLoadDataEx`, and its size.
fn error_log(count: u32, options: In<u32>, values: In<usize>) -> Status<Option<(Buffer, usize)>> {
    const BUFFER: u32 = 5;
    const SIZE: u32 = 6;
    let find = |option| -> Status<Option<usize>> {
        for index in 0..count as usize {
            if options.at(index)? == option {
                return values.at(index).map(Some);
            }
        }
        Ok(None)
    };
    Ok(match (find(BUFFER)?, find(SIZE)?) {
        // The size is a 32-bit value in place of the pointer.
        (Some(buffer), Some(size)) => Some((Buffer::from_address(buffer), size as u32 as usize)),
        _ => None,
    })
}

api! {
    fn cuModuleLoadData(s, module: Out<u64>, image: Text) {
        s.context()?;
        let text = text(s, image)?;
        module.set(s.load_module_aloud(&text)?)
    }
    fn cuModuleLoadDataEx(s, module: Out<u64>, image: Text, count: u32, options: In<u32>, values: In<usize>) {
        s.context()?;
        let text = text(s, image)?;
        match s.load_module(&text) {
            Ok(id) => module.set(id),
            Err((code, message)) => {
                eprintln!("cuda-emulator: cannot load the module: {message}");
                if let Some((buffer, size)) = error_log(count, options, values)? {
                    buffer.write(&message, size)?;
                }
                Err(code)
            }
        }
    }
    fn cuModuleLoadFatBinary(s, _module: Out<u64>, image: Text) {
        s.context()?;
        text(s, image)?;
        Err(Code::INVALID_IMAGE)
    }
    fn cuModuleLoad(s, module: Out<u64>, path: Text) {
        s.context()?;
        let bytes = std::fs::read(path.get()?).map_err(|_| Code::FILE_NOT_FOUND)?;
        let magic = [0, 1, 2, 3].map(|index| bytes.get(index).copied().unwrap_or(0));
        if Image::of(magic) != Image::Text {
            s.journal.warn("cannot load machine code; only PTX text is emulated".into());
            return Err(Code::NO_BINARY_FOR_GPU);
        }
        let text = String::from_utf8(bytes).map_err(|_| Code::INVALID_IMAGE)?;
        module.set(s.load_module_aloud(&text)?)
    }
    fn cuModuleUnload(s, module: u64) { s.unload_module(module) }
    fn cuModuleGetFunction(s, function: Out<u64>, module: u64, name: Text) {
        function.set(s.module_function(module, &name.get()?)?)
    }
    fn cuModuleGetGlobal_v2(s, address: Out<u64>, bytes: Out<usize>, module: u64, name: Text) {
        let symbol = s.module_global(module, &name.get()?)?;
        address.set_if_wanted(symbol.address);
        bytes.set_if_wanted(symbol.bytes);
        Ok(())
    }
    fn cuModuleGetLoadingMode(_s, mode: Out<u32>) { mode.set(1) }
    fn cuFuncGetAttribute(s, value: Out<i32>, attribute: u32, function: u64) {
        value.set(s.function_attribute(attribute, function)?)
    }
    fn cuFuncSetAttribute(s, function: u64, attribute: u32, value: i32) {
        s.set_function_attribute(function, attribute, value)
    }
    fn cuFuncSetCacheConfig(s, function: u64, config: u32) {
        s.function(function)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
    fn cuFuncGetModule(s, module: Out<u64>, function: u64) {
        module.set(s.function(function)?.module)
    }
    fn cuFuncGetName(s, name: Out<usize>, function: u64) {
        name.set(s.function(function)?.c_name.as_ptr().expose_provenance())
    }
    fn cuFuncGetParamInfo(s, function: u64, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let param = s.function(function)?.kernel.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.set(param.offset)?;
        bytes.set_if_wanted(param.bytes);
        Ok(())
    }
}
