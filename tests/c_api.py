"""Runs a SavedModel through TensorFlow's C API, as TF Serving does: a process with ctypes and NumPy, no other Python.

Reads `{"library", "export", "signatures": {name: {"inputs": {tensor: array or strings}, "outputs": {key: tensor}}}}`
as a pickle from standard input, and writes `{name: {key: array or strings}}` to standard output.
"""

import ctypes
import pickle
import sys

import numpy as np

TYPES = {1: np.float32, 3: np.int32, 4: np.uint8}  # TF_DataType
STRING, STRING_BYTES = 7, 24  # a TF_TString


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Library:
    """The C API, whose functions are found by name; of pointers, all that the caller does is hand them on."""

    def __init__(self, path):
        self._library = ctypes.CDLL(path)

    def __getattr__(self, name):
        function = getattr(self._library, name)
        if name in ("TF_NumDims", "TF_TensorType", "TF_GetCode"):
            function.restype = ctypes.c_int
        elif name in ("TF_TensorByteSize", "TF_StringGetSize", "TF_Dim"):
            function.restype = ctypes.c_int64
        elif name == "TF_Message":
            function.restype = ctypes.c_char_p
        else:
            function.restype = ctypes.c_void_p
        return function


class Model:
    def __init__(self, library, export):
        self.tf = library
        self.status = ctypes.c_void_p(library.TF_NewStatus())
        self.graph = ctypes.c_void_p(library.TF_NewGraph())
        options, tags = ctypes.c_void_p(library.TF_NewSessionOptions()), (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            library.TF_LoadSessionFromSavedModel(options, None, export.encode(), tags, 1, self.graph, None, self.status)
        )
        self.check()

    def check(self):
        if self.tf.TF_GetCode(self.status):
            sys.exit(self.tf.TF_Message(self.status).decode())

    def run(self, inputs, outputs):
        values = (ctypes.c_void_p * len(inputs))(*map(self.to_tensor, inputs.values()))
        results = (ctypes.c_void_p * len(outputs))()
        self.tf.TF_SessionRun(
            *(self.session, None, self.find(inputs), values, len(inputs)),
            *(self.find(outputs.values()), results, len(outputs), None, 0, None, self.status),
        )
        self.check()
        return {key: self.from_tensor(ctypes.c_void_p(result)) for key, result in zip(outputs, results, strict=True)}

    def find(self, tensors):
        found = [tensor.split(":") for tensor in tensors]
        return (Output * len(found))(
            *(Output(self.tf.TF_GraphOperationByName(self.graph, name.encode()), int(index)) for name, index in found)
        )

    def to_tensor(self, value):
        if isinstance(value, list):
            tensor = self.allocate(STRING, [len(value)], STRING_BYTES * len(value))
            for number, content in enumerate(value):
                string = self.data(tensor, STRING_BYTES * number)
                self.tf.TF_StringInit(string)
                self.tf.TF_StringCopy(string, content, ctypes.c_size_t(len(content)))
            return tensor
        [kind] = [number for number, dtype in TYPES.items() if dtype == value.dtype]
        tensor = self.allocate(kind, value.shape, value.nbytes)
        ctypes.memmove(self.data(tensor), value.tobytes(), value.nbytes)
        return tensor

    def from_tensor(self, tensor):
        shape = [self.tf.TF_Dim(tensor, axis) for axis in range(self.tf.TF_NumDims(tensor))]
        kind = self.tf.TF_TensorType(tensor)
        if kind == STRING:
            strings = [self.data(tensor, STRING_BYTES * number) for number in range(shape[0])]
            return [
                ctypes.string_at(self.tf.TF_StringGetDataPointer(each), self.tf.TF_StringGetSize(each))
                for each in strings
            ]
        content = ctypes.string_at(self.data(tensor), self.tf.TF_TensorByteSize(tensor))
        return np.frombuffer(content, TYPES[kind]).reshape(shape)

    def allocate(self, kind, shape, length):
        shape = (ctypes.c_int64 * len(shape))(*shape)
        return ctypes.c_void_p(self.tf.TF_AllocateTensor(kind, shape, len(shape), ctypes.c_size_t(length)))

    def data(self, tensor, offset=0):
        return ctypes.c_void_p(self.tf.TF_TensorData(tensor) + offset)


def main():
    request = pickle.load(sys.stdin.buffer)
    model = Model(Library(request["library"]), request["export"])
    answers = {name: model.run(**signature) for name, signature in request["signatures"].items()}
    assert not {"tensorflow", "keras", "artifact_remover", "data_prep"} & set(sys.modules)
    sys.stdout.buffer.write(pickle.dumps(answers))


if __name__ == "__main__":
    main()
