// Python's view of the corpus builder: a pipeline that is fed with pieces of input.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <stdexcept>

#include "python/bind.h"
#include "python/bind_arrays.h"
#include "corpus/pipeline.h"
#include "corpus/stream_cutter.h"
#include "tokenizer/tokenizer.h"

namespace py = pybind11;

namespace ettin {
namespace {

class NativeEncoder : public TextEncoder {
 public:
  NativeEncoder(std::shared_ptr<const Tokenizer> tokenizer, SpecialPolicy policy)
      : encoder_(std::move(tokenizer), policy) {}
  bool encode(std::string_view text, IdVector& ids, uint64_t& specials) override {
    return encoder_.encode(text, ids, specials);
  }
  bool encode(std::string_view text, NarrowIdVector& ids, uint64_t& specials) override {
    return encoder_.encode(text, ids, specials);
  }

 private:
  Encoder encoder_;
};

template <typename T>
py::array_t<T> copy_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

template <typename T, typename Vector = std::vector<T>>
Vector copy_vector(const py::handle& value) {
  const auto array = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(value);
  if (!array) throw py::error_already_set();
  return Vector(array.data(), array.data() + array.size());
}

void check_ends(const std::vector<uint64_t>& ends, uint64_t size) {
  uint64_t last = 0;
  for (const uint64_t end : ends) {
    if (end < last || end > size) throw std::invalid_argument("the ends of the records are not ascending");
    last = end;
  }
}

// Runs a Python callback in a worker thread; an exception becomes the reason of the failure.
template <typename Body>
bool call_python(std::string& error, const Body& body) {
  const py::gil_scoped_acquire gil;
  try {
    body();
    return true;
  } catch (const std::exception& exception) {
    error = exception.what();
    return false;
  }
}

// Keeps a Python callable that C++ threads may drop without holding the interpreter lock.
std::shared_ptr<py::object> shared_object(py::object object) {
  return std::shared_ptr<py::object>(new py::object(std::move(object)), [](py::object* held) {
    const py::gil_scoped_acquire gil;
    delete held;
  });
}

BatchEncoder batch_encoder(py::object callable) {
  auto held = shared_object(std::move(callable));
  return [held](const TextBatch& texts, IdBatch& batch, std::string& error) {
    return call_python(error, [&] {
      const py::tuple result = (*held)(py::bytes(texts.bytes), copy_array(texts.ends));
      batch.ids = copy_vector<uint32_t, IdVector>(result[0]);
      batch.ends = copy_vector<uint64_t>(result[1]);
      batch.specials = copy_vector<uint64_t>(result[2]);
      check_ends(batch.ends, batch.ids.size());
    });
  };
}

Splitter splitter(py::object callable) {
  auto held = shared_object(std::move(callable));
  return [held](const TextBatch& documents, TextBatch& sentences, std::vector<uint32_t>& counts, std::string& error) {
    return call_python(error, [&] {
      const py::tuple result = (*held)(py::bytes(documents.bytes), copy_array(documents.ends));
      sentences.bytes = result[0].cast<std::string>();
      sentences.ends = copy_vector<uint64_t>(result[1]);
      counts = copy_vector<uint32_t>(result[2]);
      check_ends(sentences.ends, sentences.bytes.size());
      uint64_t total = 0;
      for (const uint32_t count : counts) total += count;
      if (counts.size() != documents.ends.size() || total != sentences.ends.size()) {
        throw std::invalid_argument("the splitter did not return sentences for every document");
      }
    });
  };
}

EncodeSettings settings_of(const py::dict& options) {
  EncodeSettings settings;
  settings.keys = options["keys"].cast<std::vector<std::string>>();
  settings.vocabulary = options["vocabulary"].cast<uint32_t>();
  settings.wide = options["wide"].cast<bool>();
  settings.append_eod = options["append_eod"].cast<int64_t>();
  settings.template_first = options["template_first"].cast<int64_t>();
  settings.template_last = options["template_last"].cast<int64_t>();
  settings.strip_template = options["strip_template"].cast<bool>();
  settings.reject_specials = options["reject_specials"].cast<bool>();
  settings.maximum_record = options["maximum_record"].cast<uint64_t>();
  settings.on_error_skip = options["on_error_skip"].cast<bool>();
  if (!options["tokenizer"].is_none()) {
    std::shared_ptr<const Tokenizer> tokenizer = options["tokenizer"].cast<std::shared_ptr<Tokenizer>>();
    const auto policy = options["policy"].cast<SpecialPolicy>();
    settings.text_encoder = [tokenizer, policy] { return std::make_unique<NativeEncoder>(tokenizer, policy); };
  }
  if (!options["encoder"].is_none()) settings.batch_encoder = batch_encoder(options["encoder"]);
  if (!options["splitter"].is_none()) settings.splitter = splitter(options["splitter"]);
  return settings;
}

// The byte offsets of sequences, from the int32 lengths of some of them and where the first one starts; and where the
// last one ends.
py::tuple sequence_pointers(const py::buffer& lengths, uint64_t itemsize, uint64_t start) {
  const py::buffer_info info = lengths.request();
  const std::string_view bytes = buffer_view(info);
  if (bytes.size() % sizeof(int32_t) != 0) throw std::invalid_argument("not whole lengths");
  std::string pointers(bytes.size() * 2, '\0');
  for (size_t at = 0; at < bytes.size(); at += sizeof(int32_t)) {
    int32_t length;
    std::memcpy(&length, bytes.data() + at, sizeof(length));
    std::memcpy(pointers.data() + 2 * at, &start, sizeof(start));
    start += static_cast<uint64_t>(length) * itemsize;
  }
  return py::make_tuple(py::bytes(pointers), start);
}

// Feeds a Pipeline; one thread uses it. Every call that may wait has a time limit, so that signals are seen.
class Builder {
 public:
  Builder(const py::dict& options, const std::vector<std::vector<std::string>>& outputs, const std::string& rejects,
          const std::string& journal, std::vector<std::string> sources, const std::vector<uint64_t>& record,
          size_t threads, uint64_t block_bytes)
      : block_bytes_(block_bytes) {
    EncodeSettings settings = settings_of(options);
    maximum_record_ = settings.maximum_record;
    keys_ = settings.keys.size();
    BuildState state;
    state.outputs.resize(outputs.size());
    if (!record.empty() && !BuildState::decode(record, outputs.size(), state)) {
      throw std::invalid_argument("not a record of this journal");
    }
    std::vector<CorpusWriter::Paths> paths;
    for (const auto& output : outputs) paths.push_back({output.at(0), output.at(1), output.at(2), output.at(3)});
    auto writer = std::make_unique<CorpusWriter>();
    std::string error;
    if (!writer->open(paths, rejects, journal, std::move(sources), state, error)) throw std::runtime_error(error);
    pipeline_ = std::make_unique<Pipeline>(std::move(settings), std::move(writer), std::move(state), threads);
  }
  ~Builder() { stop(); }

  void stop() {
    const py::gil_scoped_release release;
    pipeline_->stop();
  }

  bool wait_for_space(int milliseconds) {
    const py::gil_scoped_release release;
    return pipeline_->wait_for_space(std::chrono::milliseconds(milliseconds));
  }

  bool wait_until_done(int milliseconds) {
    const py::gil_scoped_release release;
    return pipeline_->wait_until_done(std::chrono::milliseconds(milliseconds));
  }

  void open_file(const std::string& path) {
    std::string error;
    file_ = InputFile::open(path, error);
    if (!file_) throw std::runtime_error(error);
  }

  void feed_range(uint32_t source, uint64_t begin, uint64_t end) {
    if (!file_) throw std::logic_error("no file is open");
    Block block;
    block.source = source;
    block.file = file_;
    block.begin = begin;
    block.end = end;
    pipeline_->submit(std::move(block));
  }

  void start_stream(uint32_t source, const std::string& separator, bool lines, uint64_t start) {
    source_ = source;
    if (separator.empty()) throw std::invalid_argument("the separator is empty");
    const RecordKind kind = lines ? RecordKind::kJsonLines : RecordKind::kTexts;
    cutter_ = std::make_unique<StreamCutter>(kind, separator, start, block_bytes_, maximum_record_);
  }

  void feed_stream(const py::buffer& data) {
    if (!cutter_) throw std::logic_error("no stream is open");
    const py::buffer_info info = data.request();
    const std::string_view bytes = buffer_view(info);
    const py::gil_scoped_release release;
    cutter_->append(bytes, [this](Block block) { emit(std::move(block)); });
  }

  void finish_stream(bool drop_tail) {
    if (!cutter_) throw std::logic_error("no stream is open");
    const py::gil_scoped_release release;
    cutter_->finish(drop_tail, [this](Block block) { emit(std::move(block)); });
    cutter_.reset();
  }

  void feed_texts(uint32_t source, const py::buffer& data, const py::handle& ends, uint64_t begin, bool rows,
                  const py::handle& faults) {
    Block block = records(source, RecordKind::kTexts, data, ends, 1, faults);
    block.begin = begin;
    block.counts_rows = rows;
    block.end = begin + (rows ? block.ends.size() / keys_ : block.bytes.size());
    pipeline_->submit(std::move(block));
  }

  void feed_ids(uint32_t source, const py::buffer& data, const py::handle& ends, uint64_t begin,
                const py::handle& faults) {
    Block block = records(source, RecordKind::kIds, data, ends, sizeof(uint32_t), faults);
    block.begin = begin;
    block.counts_rows = true;
    block.end = begin + block.ends.size();
    pipeline_->submit(std::move(block));
  }

  void feed_rejected(uint32_t source, uint8_t kind, uint64_t offset, uint64_t end, const std::string& reason) {
    if (kind >= kRejectKinds) throw std::invalid_argument("no such kind of rejection");
    Block block;
    block.source = source;
    block.kind = RecordKind::kTexts;
    block.begin = offset;
    block.end = end;
    RejectedRecord record;
    record.line = 1;
    record.offset = offset;
    record.kind = static_cast<Reject>(kind);
    record.reason = reason;
    block.rejected.push_back(std::move(record));
    pipeline_->submit(std::move(block));
  }

  void end_source(uint32_t source, uint64_t end, uint64_t bytes, std::optional<uint32_t> checksum) {
    Block block;
    block.source = source;
    block.kind = RecordKind::kTexts;
    block.begin = block.end = end;
    block.ends_source = true;
    block.bytes_read = bytes;
    block.has_checksum = checksum.has_value();
    block.checksum = checksum.value_or(0);
    pipeline_->submit(std::move(block));
  }

  py::object failure() const {
    const Failure failure = pipeline_->failure();
    if (failure.kind == Failure::Kind::kNone) return py::none();
    py::dict result;
    constexpr const char* kinds[] = {"none", "record", "input", "output"};
    result["stage"] = kinds[static_cast<size_t>(failure.kind)];
    result["source"] = failure.source;
    result["message"] = failure.kind == Failure::Kind::kRecord ? failure.record.reason : failure.message;
    result["kind"] = reject_name(failure.record.kind);
    result["line"] = failure.record.line;
    result["offset"] = failure.record.offset;
    return std::move(result);
  }

  py::tuple totals() const {
    const Totals totals = pipeline_->totals();
    return py::make_tuple(totals.bytes, totals.documents, totals.tokens, totals.rejected);
  }

 private:
  void emit(Block block) {
    block.source = source_;
    pipeline_->submit(std::move(block));
  }

  Block records(uint32_t source, RecordKind kind, const py::buffer& data, const py::handle& ends, size_t unit,
                const py::handle& faults) {
    const py::buffer_info info = data.request();
    const std::string_view bytes = buffer_view(info);
    Block block;
    block.source = source;
    block.kind = kind;
    block.ends = copy_vector<uint64_t>(ends);
    block.faults = copy_vector<uint8_t>(faults);
    check_ends(block.ends, bytes.size() / unit);
    const size_t width = kind == RecordKind::kTexts ? keys_ : 1;
    if (block.ends.size() % width != 0 || (!block.faults.empty() && block.faults.size() != block.ends.size() / width)) {
      throw std::invalid_argument("the number of texts does not fit the number of rows");
    }
    block.bytes.assign(bytes);
    return block;
  }

  uint64_t block_bytes_;
  uint64_t maximum_record_ = 0;
  size_t keys_ = 1;
  std::unique_ptr<Pipeline> pipeline_;
  std::shared_ptr<const InputFile> file_;
  std::unique_ptr<StreamCutter> cutter_;
  uint32_t source_ = 0;
};

}  // namespace

void bind_builder(py::module_& module) {
  module.def("sequence_pointers", &sequence_pointers, py::arg("lengths"), py::arg("itemsize"), py::arg("start"));
  module.attr("JOURNAL_FIELDS") = py::tuple(py::cast(BuildState::fields()));
  module.attr("JOURNAL_OUTPUT_FIELDS") = py::tuple(py::cast(BuildState::output_fields()));
  module.def("journal_words", &BuildState::words, py::arg("outputs"));
  module.attr("REJECT_KINDS") = [] {
    py::list names;
    for (size_t i = 0; i < kRejectKinds; ++i) names.append(reject_name(static_cast<Reject>(i)));
    return py::tuple(names);
  }();
  py::class_<Builder>(module, "CorpusBuilder")
      .def(py::init<const py::dict&, const std::vector<std::vector<std::string>>&, const std::string&,
                    const std::string&, std::vector<std::string>, const std::vector<uint64_t>&, size_t, uint64_t>(),
           py::arg("options"), py::arg("outputs"), py::arg("rejects"), py::arg("journal"), py::arg("sources"),
           py::arg("record"), py::arg("threads"), py::arg("block_bytes"))
      .def("stop", &Builder::stop)
      .def("wait_for_space", &Builder::wait_for_space, py::arg("milliseconds"))
      .def("wait_until_done", &Builder::wait_until_done, py::arg("milliseconds"))
      .def("open_file", &Builder::open_file, py::arg("path"))
      .def("feed_range", &Builder::feed_range, py::arg("source"), py::arg("begin"), py::arg("end"))
      .def("start_stream", &Builder::start_stream, py::arg("source"), py::arg("separator"), py::arg("lines"),
           py::arg("start"))
      .def("feed_stream", &Builder::feed_stream, py::arg("data"))
      .def("finish_stream", &Builder::finish_stream, py::arg("drop_tail"))
      .def("feed_texts", &Builder::feed_texts, py::arg("source"), py::arg("data"), py::arg("ends"), py::arg("begin"),
           py::arg("rows"), py::arg("faults"))
      .def("feed_ids", &Builder::feed_ids, py::arg("source"), py::arg("data"), py::arg("ends"), py::arg("begin"),
           py::arg("faults"))
      .def("feed_rejected", &Builder::feed_rejected, py::arg("source"), py::arg("kind"), py::arg("offset"),
           py::arg("end"), py::arg("reason"))
      .def("end_source", &Builder::end_source, py::arg("source"), py::arg("end"), py::arg("bytes"), py::arg("checksum"))
      .def("failure", &Builder::failure)
      .def("totals", &Builder::totals);
}

}  // namespace ettin
