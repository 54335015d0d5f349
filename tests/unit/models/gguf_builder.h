// Builds GGUF files in memory for the tests, and remembers which field lies at which byte, so that a test can cut
// or falsify any of them and know what the error has to name.
#ifndef METRONOME_TESTS_GGUF_BUILDER_H
#define METRONOME_TESTS_GGUF_BUILDER_H

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
#include "models/gguf.h"
}

// GGML's numbers of tensor types, as files have them.
inline uint32_t gguf_type_id(enum tensor_type type) {
    switch (type) {
    case TENSOR_F32:
        return 0;
    case TENSOR_F16:
        return 1;
    case TENSOR_BF16:
        return 30;
    case TENSOR_Q8_0:
        return 8;
    case TENSOR_Q4_0:
        return 2;
    case TENSOR_Q4_1:
        return 3;
    case TENSOR_Q4_K:
        return 12;
    case TENSOR_Q5_K:
        return 13;
    case TENSOR_Q6_K:
        return 14;
    case TENSOR_Q5_0:
        return 6;
    default:
        return 999;
    }
}

class GgufBuilder {
  public:
    struct Mark { // a field begins here
        size_t offset;
        std::string owner; // "key 'a.b'", "tensor 3", or empty for the header's own fields
        std::string field;
    };

    uint32_t version = 3;
    size_t alignment = 32; // of the data section; write general.alignment yourself

    void u32(const std::string &key, uint32_t value) {
        scalar(key, GGUF_U32, value);
    }
    void f32(const std::string &key, float value) {
        scalar(key, GGUF_F32, value);
    }
    void boolean(const std::string &key, uint8_t value) {
        scalar(key, GGUF_BOOL, value);
    }
    template <typename T> void scalar(const std::string &key, enum gguf_type type, T value) {
        Key k = begin(key, type);
        k.put(value, "value");
        keys_.push_back(k);
    }
    void string(const std::string &key, const std::string &value) {
        Key k = begin(key, GGUF_STRING);
        k.text(value, "value");
        keys_.push_back(k);
    }
    void strings(const std::string &key, const std::vector<std::string> &values) {
        Key k = begin(key, GGUF_ARRAY);
        k.put(uint32_t(GGUF_STRING), "array element type");
        k.put(uint64_t(values.size()), "array count");
        for (const std::string &value : values) {
            k.text(value, "array string");
        }
        keys_.push_back(k);
    }
    template <typename T> void array(const std::string &key, enum gguf_type type, const std::vector<T> &values) {
        Key k = begin(key, GGUF_ARRAY);
        k.put(uint32_t(type), "array element type");
        k.put(uint64_t(values.size()), "array count");
        for (T value : values) {
            k.put(value, "array");
        }
        keys_.push_back(k);
    }
    void tensor(const std::string &name, uint32_t type, const std::vector<uint64_t> &extent,
                const std::vector<uint8_t> &data) {
        tensors_.push_back({name, type, extent, data});
    }

    // Drops keys and tensors of this name, so that a test can write them differently or leave them out.
    void remove(const std::string &name) {
        for (size_t i = keys_.size(); i-- > 0;) {
            if (keys_[i].name == name) {
                keys_.erase(keys_.begin() + long(i));
            }
        }
        for (size_t i = tensors_.size(); i-- > 0;) {
            if (tensors_[i].name == name) {
                tensors_.erase(tensors_.begin() + long(i));
            }
        }
    }

    std::vector<uint8_t> build(std::vector<Mark> *marks = nullptr) const {
        Bytes out;
        out.mark("", "magic");
        out.raw("GGUF", 4);
        out.put(version, "version");
        out.put(uint64_t(tensors_.size()), "tensor_count");
        out.put(uint64_t(keys_.size()), "metadata_kv_count");
        for (size_t i = 0; i < keys_.size(); i++) {
            out.owner = "key " + std::to_string(i);
            out.text(keys_[i].name, "name");
            out.append(keys_[i], "key '" + keys_[i].name + "'");
        }
        size_t offset = 0;
        for (size_t i = 0; i < tensors_.size(); i++) {
            const Tensor &tensor = tensors_[i];
            out.owner = "tensor " + std::to_string(i);
            out.text(tensor.name, "name");
            out.owner = "tensor '" + tensor.name + "'";
            out.put(uint32_t(tensor.extent.size()), "dimension count");
            for (uint64_t extent : tensor.extent) {
                out.put(extent, "extent");
            }
            out.put(tensor.type, "type");
            out.put(uint64_t(offset), "offset");
            offset = align(offset + tensor.data.size());
        }
        for (size_t i = 0; i < tensors_.size(); i++) {
            out.mark("tensor '" + tensors_[i].name + "'", "data");
            out.bytes.resize(align(out.bytes.size()));
            out.raw(tensors_[i].data.data(), tensors_[i].data.size());
        }
        if (marks != nullptr) {
            *marks = out.marks;
        }
        return out.bytes;
    }

  private:
    struct Bytes {
        std::vector<uint8_t> bytes;
        std::vector<Mark> marks;
        std::string owner;

        void mark(const std::string &who, const std::string &field) {
            marks.push_back({bytes.size(), who, field});
        }
        void raw(const void *data, size_t count) {
            const uint8_t *begin = static_cast<const uint8_t *>(data);
            bytes.insert(bytes.end(), begin, begin + count);
        }
        template <typename T> void put(T value, const std::string &field) {
            mark(owner, field);
            raw(&value, sizeof value);
        }
        void text(const std::string &value, const std::string &field) {
            put(uint64_t(value.size()), field);
            raw(value.data(), value.size());
        }
        void append(const Bytes &other, const std::string &who) {
            for (const Mark &mark : other.marks) {
                marks.push_back({bytes.size() + mark.offset, who, mark.field});
            }
            raw(other.bytes.data(), other.bytes.size());
        }
    };
    struct Key : Bytes {
        std::string name;
    };
    struct Tensor {
        std::string name;
        uint32_t type;
        std::vector<uint64_t> extent;
        std::vector<uint8_t> data;
    };

    static Key begin(const std::string &key, enum gguf_type type) {
        Key k;
        k.name = key;
        k.put(uint32_t(type), "value type");
        return k;
    }
    size_t align(size_t offset) const {
        return (offset + alignment - 1) / alignment * alignment;
    }

    std::vector<Key> keys_;
    std::vector<Tensor> tensors_;
};

#endif
